"""One name on package indexes: in the metadata, in every message and on every page."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from dcache.util.distribution import DEMO_DISTRIBUTION, DISTRIBUTION, install_line

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = set(PROJECT["optional-dependencies"])
# What a requirement of dcache looks like, in a file that tells others how to install it.
INSTALLS = re.compile(r"pip install [^\n#`]*?\b(dcache(?:-torch)?)(?:\[([\w,]+)\])?(?=['\"`\s])")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
    ("extras", "line"),
    [
        ((), "pip install dcache-torch"),
        (("eval",), "pip install 'dcache-torch[eval]'"),
        (("demo", "eval"), "pip install 'dcache-torch[demo,eval]'"),
    ],
)
def test_the_line_names_the_distribution_and_the_extras(extras: tuple[str, ...], line: str) -> None:
    assert install_line(*extras) == line


def test_the_project_has_this_name_also_where_it_names_itself() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    themselves = [one for one in PROJECT["optional-dependencies"]["dev"] if one.startswith("dcache")]
    # Simulators are large, and pin what others use.
    assert themselves == [f"{DISTRIBUTION}[{','.join(sorted(EXTRAS - {'dev', 'policy'}))}]"]


def test_the_shipped_models_have_the_name_that_messages_give_them() -> None:
    demo = ROOT / "packages" / DEMO_DISTRIBUTION / "pyproject.toml"
    assert tomllib.loads(demo.read_text(encoding="utf-8"))["project"]["name"] == DEMO_DISTRIBUTION


def test_no_module_writes_an_install_line_of_its_own() -> None:
    guilty = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "dcache").rglob("*.py"))
        if path.name != "distribution.py" and INSTALLS.search(path.read_text(encoding="utf-8"))
    ]
    assert guilty == []


def test_the_pages_name_the_distribution_and_extras_that_exist() -> None:
    lines = [found for path in PAGES for found in INSTALLS.findall(path.read_text(encoding="utf-8"))]
    assert lines
    for name, extras in lines:
        assert name == DISTRIBUTION
        assert set(extras.split(",")) - {""} <= EXTRAS
