"""The bars of caching on the trained text models: quality against rows, within one decode order."""

from typing import Any

import pytest
import torch

import dcache
from dcache import diffusion_lm
from dcache.demo.data import folder
from dcache.demo.texts import acrostic, mirror

SEEDS = (0, 1, 2)


def load(task: Any) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder("texts") / task.NAME, dtype=torch.float32).eval()


def quality(
    model: Any, task: Any, method: Any, block: int, rows: int, seeds: Any = SEEDS
) -> tuple[float, float]:
    """Mean score over seeds, and the share of rows, at temperature 1."""
    scores, shares = [], []
    with dcache.enabled(model, method):
        for seed in seeds:
            out = diffusion_lm.generate(
                model, task.prompts(rows), max_new_tokens=task.ANSWER, block=block, temperature=1.0, seed=seed
            )
            scores.append(task.score(out))
            shares.append(dcache.stats(model).share)
    return sum(scores) / len(scores), sum(shares) / len(shares)


def test_the_mirror_task_needs_the_delay():
    """The bar with the widest margin, on few prompts: all but certain with it, next to nothing without."""
    m, model = dcache.methods, load(mirror)
    late, early = (quality(model, mirror, m.dkv(refresh=0, delay=delay), 16, 30, (0,))[0] for delay in (1, 0))
    assert late - early >= 0.8


@pytest.mark.slow
def test_the_mirror_task():
    m, model = dcache.methods, load(mirror)

    def of(method: Any, block: int = 16) -> tuple[float, float]:
        return quality(model, mirror, method, block, 300)

    none, _ = of(m.none())
    dual, dual_rows = of(m.dual(), 4)
    elastic, elastic_rows = of(m.elastic(window=4, gamma=0.5))
    window, window_rows = of(m.window(window=4))
    dkv, dkv_rows = of(m.dkv(refresh=8))
    assert none > 0.97
    assert dual >= 0.97 * none
    assert dual_rows <= 0.43
    assert elastic >= 0.97 * none
    assert elastic >= window + 0.03
    assert window_rows < elastic_rows <= 0.43
    assert dkv >= 0.93 * none
    assert dkv_rows <= 0.60
    assert of(m.dkv(refresh=0))[0] - of(m.dkv(refresh=0, delay=0))[0] >= 0.8
    assert of(m.freecache(), 4)[0] - of(m.freecache(delay=0), 4)[0] >= 0.5


@pytest.mark.slow
def test_the_acrostic_task():
    m, model = dcache.methods, load(acrostic)

    def of(method: Any, block: int = 34) -> tuple[float, float]:
        return quality(model, acrostic, method, block, 300, (0,))

    plain, _ = of(m.none(window=4))
    window, window_rows = of(m.window(window=4))
    elastic, elastic_rows = of(m.elastic(window=8, gamma=0.5))
    dual, dual_rows = of(m.dual(), 8)
    assert plain > 0.85
    assert window >= plain - 0.03
    assert window_rows <= 0.16
    assert elastic >= dual
    assert elastic_rows < dual_rows
    assert of(m.dkv(refresh=0, delay=0))[0] <= 0.10


@pytest.mark.slow
def test_policies_that_watch_the_forward():
    """On mirror dllm_cache fails, for what its rows' values do not show."""
    m = dcache.methods
    model = load(mirror)
    none, _ = quality(model, mirror, m.none(), 16, 300, (0,))
    score, rows = quality(model, mirror, m.d2cache(masked=4), 16, 300, (0,))
    assert score >= 0.95 * none
    assert rows <= 0.38
    model = load(acrostic)
    none, _ = quality(model, acrostic, m.none(), 34, 100, (0,))
    for method, share, most in ((m.dllm_cache(), 0.92, 0.51), (m.d2cache(masked=16), 0.95, 0.40)):
        score, rows = quality(model, acrostic, method, 34, 100, (0,))
        assert score >= share * none
        assert rows <= most
