"""Random weights keep the tokens that they score highest."""

import copy
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from dcache import DcacheError, lm_kv
from dcache.lm_kv.scoring.trained import FORMAT
from tests.lm_kv.language_models import (
    alone,
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    family,
    generate,
    llama,
    prefill,
    prefilled,
)

LAYERS, HEADS, SIZE, HIDDEN = 2, 2, 16, 64


def file(path: Path, reads: str = "hidden", inputs: int = HIDDEN, heads: int = HEADS) -> Path:
    """A scorer of random weights for the tiny model."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(LAYERS):
        tensors[f"{layer}.0.weight"] = torch.randn(8, inputs, generator=generator)
        tensors[f"{layer}.1.weight"] = torch.randn(heads, 8, generator=generator)
    place = path / f"{reads}-{inputs}-{heads}.safetensors"
    save_file(tensors, place, metadata={"format": FORMAT, "reads": reads})
    return place


def kept(cache: Any) -> list[list[list[list[int]]]]:
    """Positions by layer, row and head."""
    stored = [layer.store.stored() for layer in cache.layers]
    return [
        [[s.positions[b, h][s.valid[b, h]].tolist() for h in range(HEADS)] for b in range(len(s.keys))]
        for s in stored
    ]


def test_the_highest_scores_of_the_inputs_of_attention_are_kept(tmp_path):
    model, inputs = llama(LAYERS), alone(batch())
    policy = lm_kv.trained_scorer(file(tmp_path), budget=9, sinks=0, window=0)
    cache = prefilled(model, policy, inputs)
    weights = policy.observer.module.tensors
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    for layer in range(LAYERS):
        states = model.model.layers[layer].input_layernorm(hidden[layer])
        scores = F.silu(states @ weights[f"{layer}.0.weight"].T) @ weights[f"{layer}.1.weight"].T
        expected = scores[0].T.topk(9).indices.sort().values.tolist()
        assert kept(cache)[layer][0] == expected


@pytest.mark.parametrize("reads", ["keys", "values", "keys values"])
def test_keys_and_values_are_read_where_they_are_stored(tmp_path, reads):
    model, inputs = llama(LAYERS), alone(batch())
    path = file(tmp_path, reads, SIZE * len(reads.split()), 1)
    policy = lm_kv.trained_scorer(path, budget=9, sinks=0, window=0)
    full = prefilled(model, "keydiff", inputs, budget=1.0).layers[0].store.stored()
    states = torch.cat([{"keys": full.keys, "values": full.values}[part] for part in reads.split()], -1)
    expected = policy.scorer.module(0, states)[0, :, :, 0].topk(9).indices.sort().values.tolist()
    assert kept(prefilled(model, policy, inputs))[0][0] == expected


@pytest.mark.parametrize("reads", ["hidden", "keys"])
def test_a_padded_row_is_as_alone_while_evicting(tmp_path, reads):
    path = file(tmp_path, reads, HIDDEN if reads == "hidden" else SIZE, HEADS if reads == "hidden" else 1)
    policy = lm_kv.trained_scorer(path, sinks=1, window=2, every=4)
    _, caches = check_a_padded_row_is_as_alone(llama(LAYERS), batch(), policy, budget=0.4)
    assert caches[0].stats().evictions == 3


def test_a_function_may_score_in_the_place_of_a_file():
    model, inputs = family("gpt2"), batch()

    def largest(layer: int, states: torch.Tensor) -> torch.Tensor:
        return states.abs().amax(-1, keepdim=True).expand(-1, -1, 4)

    cache = lm_kv.KVCache(model, lm_kv.trained_scorer(largest, sinks=0, window=2), budget=0.5)
    generate(model, inputs, cache, tokens=3)
    assert cache.stats().evictions == 1


def test_a_whole_budget_is_exact_and_forks_and_other_caches_read_their_own(tmp_path):
    model, inputs = llama(LAYERS), batch()
    policy = lm_kv.trained_scorer(file(tmp_path), window=2, sinks=0)
    whole, _ = generate(model, inputs, lm_kv.KVCache(model, policy, budget=1.0))
    assert torch.equal(whole, generate(model, inputs, None)[0])
    with lm_kv.KVCache(model, policy, budget=0.5).hold() as cache, torch.no_grad():
        model(**inputs, past_key_values=cache)
        fork = copy.deepcopy(cache)
        model(torch.tensor([[3], [4]]), past_key_values=cache)
    fork.compress()
    assert fork.stats().kept == (13.0, 20.0)
    assert kept(fork) == kept(prefilled(model, policy, inputs, budget=0.5))


def test_hooks_go_with_the_cache_and_scores_are_counted(tmp_path):
    model = llama(LAYERS)
    cache = prefilled(model, lm_kv.trained_scorer(file(tmp_path), window=2, sinks=0), batch(), budget=0.5)
    tensors = [tensor for layer in cache.layers for tensor in layer.storages()]
    assert cache.nbytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert all(layer.state["trained"].shape == (2, HEADS, 40) for layer in cache.layers)
    assert model.model.layers[0].self_attn._forward_pre_hooks
    del cache, tensors
    assert not model.model.layers[0].self_attn._forward_pre_hooks


def test_states_of_calls_with_another_cache_are_not_held(tmp_path):
    model, inputs, given = llama(LAYERS), batch(), []
    policy = lm_kv.trained_scorer(file(tmp_path), sinks=0, window=2, every=3)
    waiting, alone_ = (prefilled(model, policy, inputs, budget=0.5) for _ in range(2))
    other = lm_kv.KVCache(model, "keydiff", budget=0.5)
    attention = model.model.layers[1].self_attn
    note = attention.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(weakref.ref(kwargs["hidden_states"])), with_kwargs=True
    )
    prefill(model, inputs, other)
    with torch.no_grad():
        model(torch.tensor([[7], [8]]), past_key_values=other)
    # No forward holds what it did not read, though it is broken off.
    fail = model.lm_head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prefill(model, inputs, lm_kv.KVCache(model, "keydiff", budget=0.5))
    fail.remove()
    note.remove()
    assert [reference() for reference in given] == [None, None, None]
    # Nor are they taken for those of the cache that waits.
    check_they_go_on_alike(model, [alone_, waiting], steps=4, atol=0)
    assert kept(waiting) == kept(alone_)


def test_a_cache_and_its_fork_decode_in_two_threads(tmp_path):
    model, inputs = llama(LAYERS), batch()
    policy = lm_kv.trained_scorer(file(tmp_path), sinks=0, window=2, every=1)
    caches = [prefilled(model, policy, inputs, budget=0.5)]
    caches.append(caches[0].fork())
    expected = [cache.fork() for cache in caches]
    tokens = [torch.tensor([[7], [8]]), torch.tensor([[30], [31]])]
    with torch.no_grad():
        for cache, token in zip(expected, tokens, strict=True):
            model(token, past_key_values=cache)
    barrier = threading.Barrier(2)
    # Both forwards are between a layer's hook and its attention at the same time.

    def meet(*_: Any) -> None:
        barrier.wait(60)

    wait = model.model.layers[1].self_attn.k_proj.register_forward_pre_hook(meet)

    @torch.no_grad()
    def run(cache: Any, token: torch.Tensor) -> None:
        model(token, past_key_values=cache)

    threads = [threading.Thread(target=run, args=pair) for pair in zip(caches, tokens, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait.remove()
    for cache, other in zip(caches, expected, strict=True):
        for one, same in zip(cache.layers, other.layers, strict=True):
            assert torch.equal(one.state["trained"], same.state["trained"])


def test_what_does_not_fit_is_refused(tmp_path):
    model, inputs, own = llama(LAYERS), batch(), {"sinks": 0, "window": 2}
    three = lm_kv.trained_scorer(file(tmp_path, heads=3), **own)
    with pytest.raises(DcacheError, match="gives 3 scores for a token, and layer 0 has 2 KV heads"):
        prefilled(model, three, inputs, budget=8)
    with pytest.raises(DcacheError, match="path of a scorer's weights or a function, got 3"):
        lm_kv.trained_scorer(3)
    policy = lm_kv.trained_scorer(file(tmp_path), **own)
    with pytest.raises(DcacheError, match="fill the cache by calls of the model, without prepacking"):
        lm_kv.prepacking(lm_kv.KVCache(model, policy, budget=8), **inputs)
    with pytest.raises(DcacheError, match="only caches of registered policies can be saved"):
        prefilled(model, policy, inputs, budget=8).save(tmp_path / "never")
