"""What hosts of repositories read: workflows, templates, hooks, the citation."""

import re
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import dcache
from tests.scripts import load

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps_of(workflow: str) -> list[str]:
    """The commands of all jobs."""
    jobs = read(GITHUB / "workflows" / workflow)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_continuous_integration_runs_its_script_on_every_python_that_is_allowed() -> None:
    (job,) = read(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    pythons = job["strategy"]["matrix"]["python"]
    assert steps_of("ci.yml") == [".ci/run"]
    assert pythons == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={pythons[0]}"


def test_the_build_makes_distributions_and_documentation() -> None:
    assert steps_of("build.yml") == ["make dist", "make docs"]
    assert re.search(r"^dist:", MAKEFILE, re.MULTILINE)
    assert "\nmake dist\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_workflows_may_only_read() -> None:
    for path in (GITHUB / "workflows").glob("*.yml"):
        assert read(path)["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("name", ["bug", "request"])
def test_an_issue_template_has_distinct_fields_with_labels(name: str) -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    fields = form["body"]
    assert form["name"]
    assert form["description"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_files_that_templates_name_exist() -> None:
    templates = [*(GITHUB / "ISSUE_TEMPLATE").iterdir(), GITHUB / "pull_request_template.md"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in templates)
    named = set(re.findall(r"\b(?:docs/)?[\w-]+\.md\b", text))
    assert {"SECURITY.md", "CONTRIBUTING.md", "docs/add-a-method.md"} <= named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_hooks_run_the_tools_that_lint_runs() -> None:
    (repo,) = read(ROOT / ".pre-commit-config.yaml")["repos"]
    # Tools in .venv have the versions of constraints.txt.
    assert repo["repo"] == "local"
    hooked = {hook["entry"].split()[0] for hook in repo["hooks"]}
    lint = MAKEFILE.partition("\nlint:")[2].partition("\n\n")[0]
    assert hooked == {f".venv/bin/{name}" for name in re.findall(r"\$\(BIN\)/(\S+)", lint)}


def test_the_citation_can_be_read() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (dcache.__version__, PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"]
    assert citation["title"]
    assert citation["message"]


def test_the_badges_say_what_is_so() -> None:
    badges = load("tools/draw_badges.py")
    assert badges.FILE.read_text(encoding="utf-8") == badges.svg(badges.facts().items())
    assert {"version", "python", "methods", "licence"} <= badges.facts().keys()
    assert "badges.svg" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_badge_is_as_wide_as_its_words() -> None:
    badges = load("tools/draw_badges.py")
    drawn = ElementTree.fromstring(badges.svg([("ab", "c"), ("d", "ef")]))
    boxes = [
        (float(box.attrib["x"]), float(box.attrib["width"])) for box in drawn if box.tag.endswith("rect")
    ]
    two, one = (n * badges.CHARACTER + 2 * badges.PADDING for n in (2, 1))
    second = two + one + badges.GAP
    expected = [(0, two), (two, one), (second, one), (second + one, two)]
    assert boxes == [pytest.approx(box, abs=0.1) for box in expected]
    assert float(drawn.attrib["width"]) == pytest.approx(second + one + two, abs=1)
