"""The tables of docs/diffusion_lm have every policy, every option and what was measured."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

import dcache
from dcache.diffusion_lm import registry
from tests import scripts

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCS = Path(__file__).parents[2] / "docs" / "diffusion_lm"
MEASURED = json.loads((DOCS / "measured.json").read_text(encoding="utf-8"))


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def test_the_index_links_every_policy_and_page():
    links = re.findall(r"^\| \[(\w+)\]\(policies/\1\.md\)", text_of("README.md"), re.M)
    assert set(links) == set(registry.BUILT_IN) == {path.stem for path in (DOCS / "policies").glob("*.md")}
    others = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert others <= set(re.findall(r"\]\((\w+\.md)\)", text_of("README.md")))


@pytest.mark.parametrize("name", registry.BUILT_IN)
def test_a_policys_page_has_its_options(name):
    listed = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", text_of(f"policies/{name}.md"), re.M)
    parameters = inspect.signature(getattr(dcache.methods, name)).parameters
    assert {option: ast.literal_eval(value) for option, value in listed} == {
        option: parameter.default for option, parameter in parameters.items() if option not in registry.SHARED
    }


@pytest.fixture(scope="module")
def script():
    """`examples/measure_texts.py`."""
    return scripts.load("examples/measure_texts.py")


@pytest.mark.parametrize("model", ["mirror", "acrostic"])
def test_the_figures_are_those_that_were_measured(model, script):
    table = script.table_of(MEASURED, model)
    assert f"<!-- {model} -->\n{table}\n<!-- end -->" in text_of("measure.md")
    settings = MEASURED[model]["settings"]
    assert (settings["prompts"], settings["seeds"]) == (300, 3)


@pytest.mark.parametrize("name", sorted(set(registry.BUILT_IN) - {"frozen"}))
def test_a_policys_page_has_its_figures(name, script):
    table = script.table_of_one(MEASURED, name)
    assert table.count("\n") >= 2
    assert f"<!-- table -->\n{table}\n<!-- end -->" in text_of(f"policies/{name}.md")
