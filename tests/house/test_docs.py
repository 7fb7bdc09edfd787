"""The documentation says what is so: parameters, links, figures; its Python compiles (tests/docs runs it)."""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

import dcache
from dcache import methods
from tests.scripts import load

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = DOCS / "methods"
ON_TOP = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
TEXTS = [*(ROOT / name for name in ON_TOP), *sorted(DOCS.rglob("*.md"))]
NAMES = list(methods.available())
ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \|", re.MULTILINE)


def python_of(path: Path) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def example(name: str) -> Any:
    """A script of examples/ as a module."""
    return load(f"examples/{name}.py")


@pytest.fixture(scope="module")
def scripts() -> Any:
    return example("measure_methods")


def test_every_preset_has_a_page_and_every_page_a_preset() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*NAMES, "README"}
    index = (PAGES / "README.md").read_text(encoding="utf-8").partition("## All of them")[0]
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\1\.md\) \| [^|]+ \| [^|]+ \|$", index, re.M)) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_lists_exactly_the_parameters_and_their_defaults(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    table = page.partition("## Parameters")[2].partition("\n## ")[0]
    told = [(parameter, ast.literal_eval(default)) for parameter, default in ROW.findall(table)]
    real = [(p.name, p.default) for p in inspect.signature(getattr(methods, name)).parameters.values()]
    assert told == real
    assert all(type(a[1]) is type(b[1]) for a, b in zip(told, real, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_short_and_has_every_section(name: str) -> None:
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert sections == [
        "What it does",
        "Parameters",
        "When, and when not",
        "Pitfalls, and where we differ",
        "Measured on the demo",
    ]
    assert page.startswith(f"# {name}\n")
    assert len(page.splitlines()) <= 70


def test_the_figures_are_those_that_were_measured(scripts: Any) -> None:
    found = json.loads((PAGES / "measured.json").read_text(encoding="utf-8"))
    measured = [(row["method"], row["setting"]) for row in found["rows"]]
    expected = [
        (name, scripts.choice(name, options).label)
        for name, settings in scripts.SETTINGS.items()
        for options in settings
    ]
    assert measured == expected
    assert {name for name, _ in measured} == set(NAMES)
    assert "\n".join(scripts.lines(found)) in (PAGES / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
        assert "\n".join(scripts.lines(found, name)) in page or "Refused on this model: " in page


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not broken


def anchors_of(path: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_a_heading_lead_to_one(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)#([^)]*)\)", path.read_text(encoding="utf-8"))
    pages = [(path.parent / page if page else path, anchor) for page, anchor in links if "://" not in page]
    broken = [(page.name, anchor) for page, anchor in pages if anchor not in anchors_of(page)]
    assert not broken


def test_the_index_has_every_page() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def test_the_readme_is_short_and_has_the_set_up_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    words = [word for word in text.split() if re.search(r"\w", word)]
    assert len(words) <= 1150
    assert "\nmake demo " in text
    assert "\nmake test " in text


def test_the_citation_has_the_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {dcache.__version__}\n" in text


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_in_the_pages_compiles(path: Path) -> None:
    for block in python_of(path):
        ast.parse(block)
