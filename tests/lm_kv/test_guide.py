"""The Python of docs/lm_kv runs."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

from dcache import lm_kv
from dcache.lm_kv import registry
from tests.lm_kv.language_models import batch, llama

DOCS = Path(__file__).parents[2] / "docs" / "lm_kv"
FIGURES = r"^\| ([\w ]+)" + 4 * r" \| (0\.\d+)" + r" \|$"


@pytest.mark.parametrize("page", ["README.md", "add-a-policy.md"])
def test_a_page_runs(page, monkeypatch, capsys):
    monkeypatch.setattr(registry, "_presets", dict(registry._presets))
    model, inputs = llama(2), batch(length=80)
    names = {"model": model, "batch": inputs, "__name__": page}
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.M
    )
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec", dont_inherit=True), names)
    assert isinstance(names["cache"], lm_kv.KVCache)


def test_the_page_of_files_runs_and_lists_the_codecs_options(tmp_path, monkeypatch):
    pytest.importorskip("constriction")
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "cachegen.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.M)
    names = {"model": llama(2), "batch": batch(length=80)}
    exec(compile(block, "cachegen.md", "exec", dont_inherit=True), names)
    assert names["path"].exists()
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
