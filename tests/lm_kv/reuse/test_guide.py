"""docs/lm_kv/reuse: its tables are what is so."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

from dcache import lm_kv

DOCS = Path(__file__).parents[3] / "docs" / "lm_kv" / "reuse"
TABLE = json.loads(Path(__file__).with_name("recall_table.json").read_text(encoding="utf-8"))


def figures(page):
    """The rows of three figures, by name."""
    rows = re.findall(r"^\| ([\w ,%]+)" + 3 * r" \| ([01]\.\d{3})" + r" \|$", page, re.M)
    return {name: [float(number) for number in numbers] for name, *numbers in rows}


def test_the_page_lists_every_way_and_all_figures():
    page = (DOCS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\w+)\]\(\1\.md\) \|", page, re.M)
    assert sorted(rows) == sorted(lm_kv.available("reuse"))
    assert {path.stem for path in DOCS.glob("*.md")} == {*rows, "README"}
    assert figures(page) == TABLE


@pytest.mark.parametrize("name", sorted(lm_kv.available("reuse")))
def test_a_page_has_its_options_and_figures(name):
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", page, re.M)
    parameters = inspect.signature(getattr(lm_kv, name)).parameters
    assert {option: ast.literal_eval(value) for option, value in listed} == {
        option: parameter.default for option, parameter in parameters.items()
    }
    assert figures(page)
    assert figures(page).items() <= TABLE.items()
