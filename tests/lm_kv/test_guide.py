"""The Python of docs/lm_kv runs."""

import json
import re
from pathlib import Path

import pytest

from dcache import lm_kv
from dcache.lm_kv import registry
from tests.lm_kv.language_models import batch, llama

DOCS = Path(__file__).parents[2] / "docs" / "lm_kv"


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


def test_the_figures_are_those_that_were_measured():
    table = json.loads((Path(__file__).parent / "recall" / "table.json").read_text(encoding="utf-8"))
    page = (DOCS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w ]+) \| (0\.\d+) \| (0\.\d+) \| (0\.\d+) \| (0\.\d+) \|$", page, re.M)
    assert {name: [float(figure) for figure in figures] for name, *figures in rows} == table


def test_the_page_lists_every_policy():
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "README.md").read_text(encoding="utf-8"), re.M)
    assert sorted(rows) == sorted(lm_kv.available())
