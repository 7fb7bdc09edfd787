"""The Python of docs/diffusion_lm runs; its tables have every policy, every option and what was measured."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

import dcache
from dcache import diffusion_lm
from dcache.diffusion_lm import registry
from tests import scripts
from tests.diffusion_lm import masked_models as models

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCS = Path(__file__).parents[2] / "docs" / "diffusion_lm"
MEASURED = json.loads((DOCS / "measured.json").read_text(encoding="utf-8"))


def text_of(page):
    return (DOCS / page).read_text(encoding="utf-8")


def ran(page, names):
    """What the Python of a page defined."""
    blocks = re.findall(r"^```python\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec", dont_inherit=True), names)
    return names


def test_the_index_runs(monkeypatch, capsys):
    # All that is built in is loaded first, so that it is not registered in the copy alone.
    registry.available()
    monkeypatch.setattr(registry, "_presets", dict(registry._presets))
    guide = models.llama(is_causal=True, num_hidden_layers=2)
    names = {"model": models.llama(), "guide": guide, "input_ids": models.prompts(2), "__name__": "guide"}
    ran("README.md", names)
    assert names["out"].shape == (2, 24)
    assert "rows" in capsys.readouterr().out
    assert dcache.stats(names["model"]).method == "block_and_next()"


def test_a_model_of_ones_own_binds_and_is_exact(capsys):
    """With every row computed the page's model decodes as it does by itself; with dual it computes fewer."""
    names = ran("bind.md", {"__name__": "guide"})
    assert "sdpa calls" in capsys.readouterr().out
    model, ids, stats = names["model"], names["input_ids"], dcache.stats(names["model"])
    assert stats.rows == 4 * 24 + 12 * 4
    dcache.disable(model)
    plain = diffusion_lm.generate(model, ids, max_new_tokens=16)
    with dcache.enabled(model, dcache.methods.dkv(refresh=1)):
        assert (diffusion_lm.generate(model, ids, max_new_tokens=16) == plain).all()


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
