"""The tables of docs/lm_kv have every policy, every option and what was measured."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

from dcache import lm_kv

DOCS = Path(__file__).parents[2] / "docs" / "lm_kv"
FIGURES = r"^\| ([\w ]+)" + 4 * r" \| (0\.\d+)" + r" \|$"


def test_the_page_of_files_lists_the_codecs_options():
    page = (DOCS / "cachegen.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", page, re.M)
    parameters = inspect.signature(lm_kv.cachegen).parameters
    assert {option: ast.literal_eval(value) for option, value in listed} == {
        option: parameter.default for option, parameter in parameters.items()
    }


def test_the_figures_are_those_that_were_measured():
    table = json.loads(Path(__file__).with_name("recall_table.json").read_text(encoding="utf-8"))
    page = (DOCS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(FIGURES, page, re.M)
    assert {name: [float(figure) for figure in figures] for name, *figures in rows} == table


def test_the_page_lists_every_policy():
    page = (DOCS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(policies/\1\.md\) \|", page, re.M)
    listed = set(lm_kv.available()) - set(lm_kv.available("reuse"))
    assert sorted(rows) == sorted(listed)
    assert {path.stem for path in (DOCS / "policies").glob("*.md")} == listed


@pytest.mark.parametrize("name", sorted(lm_kv.available("sharing") | lm_kv.available("trained")))
def test_the_page_of_what_rows_share_has_its_options_and_says_what_was_measured(name):
    page = (DOCS / "policies" / f"{name}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| (?:`(.*?)` )?\|", page, re.M)
    parameters = inspect.signature(getattr(lm_kv, name)).parameters
    assert [option for option, _ in listed] == list(parameters)
    defaults = {option: ast.literal_eval(value) for option, value in listed if value}
    with_default = {n: p.default for n, p in parameters.items() if p.default is not p.empty}
    assert defaults == with_default
    assert "## Measured" in page


@pytest.mark.parametrize("name", sorted(lm_kv.available("policy")))
def test_a_policys_page_has_its_options_and_figures(name):
    page = (DOCS / "policies" / f"{name}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", page, re.M)
    parameters = inspect.signature(getattr(lm_kv, name)).parameters
    assert {option: ast.literal_eval(value) for option, value in listed} == {
        option: parameter.default for option, parameter in parameters.items()
    }
    table = json.loads(Path(__file__).with_name("recall_table.json").read_text(encoding="utf-8"))
    rows = re.findall(FIGURES, page, re.M)
    assert rows
    for label, *figures in rows:
        assert [float(figure) for figure in figures] == table[label]
