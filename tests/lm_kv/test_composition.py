"""Every policy that evicts with every codec: tokens are chosen first, then stored."""

import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from dcache import DcacheError, DcacheWarning, lm_kv
from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.storage.reducers import drop
from tests.cover import each_value
from tests.lm_kv.language_models import (
    alone,
    batch,
    check_a_padded_row_is_as_alone,
    generate,
    llama,
    prefilled,
)

POLICIES = {name: lm_kv.make(name, budget=0.5) for name in lm_kv.available("policy")}
# Policies that choose which tokens are kept.
EVICTING = sorted(
    name
    for name, policy in POLICIES.items()
    if policy.selector is None and isinstance(policy.codec, Plain) and policy.reducer.lower is None
)
# The largest error of a number, of numbers up to 4; low rank and few channels leave out what is small.
CODECS = {
    "kivi": (lm_kv.kivi(bits=8, group=8), 0.05),
    "rotatekv": (lm_kv.rotatekv(bits=8, group=8), 0.1),
    "gear": (lm_kv.gear(bits=8, group=8), 0.05),
    "think": (lm_kv.think(ratio=0.0), 0.0),
    "matryoshka": (lm_kv.matryoshka(share=1.0), 0.02),
    # A token by itself is its own level.
    "vidkv": (lm_kv.vidkv(group=1), 0.01),
    "cskv": (lm_kv.cskv(rank=16, value_rank=16, group=16), 0.05),
    "shadowkv": (lm_kv.shadowkv(rank=16, page=2), 0.05),
    "retrieval_attention": (lm_kv.retrieval_attention(), 0.0),
}
JOINT = sorted(name for name, policy in POLICIES.items() if policy.joint is not None)


MODEL = cache(lambda: llama(2))
# Ids and validity of two rows of 40 columns, which policies with a probe remember.
TEXT = 2 * 40 * (8 + 1)


def filled(name: str, **more: Any) -> Any:
    with warnings.catch_warnings():
        # Of 13 and 20 tokens a window of 32 takes half.
        warnings.simplefilter("ignore", DcacheWarning)
        return prefilled(MODEL(), POLICIES[name], batch(), **more)


@cache
def plain(name: str) -> Any:
    """The cache of a policy without a codec."""
    return filled(name)


@pytest.mark.parametrize(*each_value(name=EVICTING, codec=[*CODECS]))
def test_a_policy_keeps_the_same_tokens_with_any_codec(name, codec):
    chosen, error = CODECS[codec]
    coded = filled(name, codec=chosen)
    for own, other in zip(coded.layers, plain(name).layers, strict=True):
        (few,), (whole,) = own.store.segments, other.store.segments
        assert not isinstance(few.codec, Plain)
        assert (few.bias is None) == (whole.bias is None)
        # A row's window stays in the tail where the codec would round it.
        stored, exact = own.store.stored(), other.store.stored()
        assert torch.equal(stored.positions[stored.valid], exact.positions[exact.valid])
        assert torch.equal(stored.valid.sum(-1), exact.valid.sum(-1))
        for kind in ("keys", "values"):
            near, known = getattr(stored, kind)[stored.valid], getattr(exact, kind)[exact.valid]
            torch.testing.assert_close(near, known, atol=error, rtol=0)
    assert coded.stats().kept == plain(name).stats().kept


def test_the_codecs_are_those_of_all_policies():
    single = {type(policy.codec) for name, policy in POLICIES.items() if name not in JOINT}
    assert {type(stored.codec) for stored, _ in CODECS.values()} == single - {Plain}


@pytest.mark.parametrize("name", JOINT)
def test_a_codec_of_several_layers_refuses_to_evict_and_says_what_to_do(name):
    for policy, codec in ((name, None), ("h2o", lm_kv.make(name))):
        with pytest.raises(DcacheError, match=r"leave budget=1\.0, or evict with another policy and codec"):
            lm_kv.KVCache(MODEL(), policy, budget=0.5, codec=codec)


@pytest.mark.parametrize("name", EVICTING)
def test_budgets_add_up_and_bytes_are_those_of_the_tensors(name):
    held = plain(name)
    counts = torch.stack([layer.store.kept() for layer in held.layers])
    # Halves of 27 and 40 tokens, in two heads of two layers; a head that loses none leaves its slot empty.
    spare = 4 * held.policy.reducer.slots
    for count, tokens in zip(counts.sum((0, 2)).tolist(), (13, 20), strict=True):
        # A policy that takes what its attention asks for may keep less.
        least = 0 if held.policy.coverage else 4 * tokens - spare
        assert least <= count <= 4 * tokens
    tensors = [tensor for layer in held.layers for tensor in layer.storages()]
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    text = TEXT if held.policy.scorer.probes else 0
    assert held.stats().bytes_held == sum(sizes.values()) + text
    assert held.stats().evictions == 1


@pytest.mark.parametrize("name", sorted(n for n in EVICTING if POLICIES[n].reducer is not drop))
def test_rows_of_a_batch_merge_what_they_do_by_themselves(name):
    # Windows of 3 and 5 tokens: of the longer one 2 leave the tail of the batch.
    policy = replace(POLICIES[name], budget=0.25, window=0.5, sinks=0)
    both = prefilled(MODEL(), policy, batch())
    second = {key: tensor[1:] for key, tensor in batch().items()}
    for row, inputs in enumerate((alone(batch()), second)):
        single = prefilled(MODEL(), policy, inputs)
        for layer, other in zip(both.layers, single.layers, strict=True):
            few, exact = layer.store.stored(), other.store.stored()
            for head in range(2):
                here, there = few.valid[row, head], exact.valid[0, head]
                for part in ("positions", "keys", "values"):
                    states, expected = getattr(few, part), getattr(exact, part)
                    torch.testing.assert_close(
                        states[row, head][here], expected[0, head][there], atol=1e-4, rtol=0
                    )


@pytest.mark.parametrize("budget", [0.5, 30], ids=str)
@pytest.mark.parametrize("name", ["h2o", "zipcache", "snapkv"])
def test_what_a_row_alone_would_not_round_is_not_rounded_beside_another_one(name, budget):
    # Shares of the budget are windows of other lengths in rows of other lengths; 27 tokens are within 30.
    policy = replace(POLICIES[name], budget=budget, window=0.5, every=3, sinks=0)
    policy = policy if policy.reducer.lower else replace(policy, codec=lm_kv.kivi(bits=4, group=4).codec)
    model = llama(2).double()
    check_a_padded_row_is_as_alone(model, batch(), policy)
    # Here the padded row has the shorter window: the other one is compared.
    inputs = batch(pads=33)
    both, own = (lm_kv.KVCache(model, policy) for _ in range(2))
    _, logits = generate(model, inputs, both)
    _, single = generate(model, {key: tensor[1:] for key, tensor in inputs.items()}, own)
    torch.testing.assert_close(logits[1:], single, atol=1.5e-5, rtol=0)
    for here, there in zip(both.layers, own.layers, strict=True):
        assert here.store.tail.valid[1].sum() == there.store.tail.valid.sum() > 10
        assert here.store.tail.free <= here.store.tail.valid.sum(1).min()
