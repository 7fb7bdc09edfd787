"""Caches do not depend on torch's default dtype and device, which other parts of a program may set."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from dcache import lm_kv
from dcache.lm_kv.codecs.low_rank import low_rank
from dcache.lm_kv.codecs.rotated import hadamard
from tests.lm_kv.language_models import batch, llama, prefilled

SMALL: dict[str, dict[str, Any]] = {
    "cake": {"window": 4},
    "double_sparsity": {"window": 4},
    "gear": {"group": 4, "residual": 2},
    "kivi": {"group": 4, "residual": 2},
    "kvmerger": {"threshold": 0.2},
    "matryoshka": {"residual": 2},
    "minicache": {"residual": 2, "start": 0.0},
    "rotatekv": {"residual": 2},
    "shadowkv": {"rank": 3, "page": 3, "window": 4},
    "snapkv": {"window": 4},
    "vidkv": {"group": 4, "residual": 2},
    "xkv": {"residual": 2, "layers": 2},
    "xquant": {"group": 4, "residual": 2},
    "xquant_cl": {"group": 4, "residual": 2, "base": 1},
}
# They store all tokens.
WHOLE = {"gear", "kivi", "minicache", "vidkv", "xkv", "xquant", "xquant_cl"}
FAST = ("kvmerger", "razor_attention", "shadowkv")


KINDS = ["bfloat16", "float64", "meta"]
STEPS = [
    {
        "input_ids": torch.tensor([[5 + step], [6]]),
        "attention_mask": torch.ones(2, 41 + step),
        "position_ids": torch.tensor([[27], [40]]) + step,
    }
    for step in range(4)
]
pytestmark = pytest.mark.filterwarnings("ignore:sinks=")


@contextmanager
def default(kind: str) -> Iterator[None]:
    """Another default dtype, or a default device on which nothing can be computed."""
    if kind == "meta":
        torch.set_default_device(kind)
    else:
        torch.set_default_dtype(getattr(torch, kind))
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@torch.no_grad()
def decoded(model: Any, inputs: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """Logits of a few steps behind a padded batch, with evictions in between."""
    evicting = {} if name in WHOLE else {"budget": 0.4, "every": 2}
    cache = prefilled(model, lm_kv.make(name, **SMALL.get(name, {})), inputs, **evicting)
    cache.report()
    return torch.stack([model(**step, past_key_values=cache).logits for step in STEPS])


def check(name: str, kind: str) -> None:
    model, inputs = llama(2), batch()
    expected = decoded(model, inputs, name)
    with default(kind):
        actual = decoded(model, inputs, name)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FAST)
def test_a_policy_gives_what_it_gives_with_torchs_own(name: str, kind: str) -> None:
    check(name, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(lm_kv.available("policy").keys() - set(FAST)))
def test_more_policies(name: str, kind: str) -> None:
    check(name, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_codecs_make_once_is_the_same(kind: str) -> None:
    hadamard.cache_clear()
    tokens, lengths = torch.eye(13), torch.tensor([13])
    with default(kind):
        matrix, few = hadamard(2), low_rank(tokens, 13, 13, lengths)
    assert torch.equal(matrix, torch.tensor([[1.0, 1.0], [1.0, -1.0]]) * 2**-0.5)
    # All directions of a group rebuild it.
    torch.testing.assert_close(few.add_to(torch.zeros(13, 13)), tokens, atol=2e-3, rtol=0)
