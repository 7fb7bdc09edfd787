"""The Python of docs/diffusion_lm runs, and its table has every policy."""

import re
from pathlib import Path

import dcache
from dcache.diffusion_lm import registry
from tests.diffusion_lm import masked_models as models

PAGE = Path(__file__).parents[2] / "docs" / "diffusion_lm" / "README.md"


def test_the_page_runs(monkeypatch, capsys):
    monkeypatch.setattr(registry, "_presets", dict(registry._presets))
    text = PAGE.read_text(encoding="utf-8")
    names = {"model": models.llama(), "input_ids": models.prompts(2), "__name__": "guide"}
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, "README.md", "exec", dont_inherit=True), names)
    assert names["out"].shape == (2, 24)
    assert "rows" in capsys.readouterr().out
    assert dcache.stats(names["model"]).method == "block_and_next()"


def test_the_page_lists_every_policy():
    rows = re.findall(r"^\| `(\w+)\(", PAGE.read_text(encoding="utf-8").partition("## Policies")[2], re.M)
    assert set(rows) >= set(registry.BUILT_IN)
