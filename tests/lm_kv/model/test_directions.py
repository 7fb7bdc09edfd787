import pytest
import torch

import dcache
from dcache import lm_kv
from dcache.lm_kv.model.directions import bases_of, measure, principal, shared_ranks
from tests.lm_kv.language_models import family, llama


def test_components_are_those_of_the_covariance():
    states = torch.randn(2, 3, 50, 6) * torch.tensor([1.0, 5.0, 0.1, 2.0, 3.0, 0.5]) + 4
    found = principal(states)
    tokens = states[:, 1].flatten(0, 1).double()
    torch.testing.assert_close(found.mean[1].double(), tokens.mean(0), atol=1e-5, rtol=0)
    covariance = (tokens - tokens.mean(0)).T @ (tokens - tokens.mean(0)) / 100
    vectors, variance = found.vectors[1].double(), found.variance[1].double()
    torch.testing.assert_close(vectors.T @ (variance[:, None] * vectors), covariance, atol=1e-3, rtol=1e-4)
    assert bool((found.variance.diff(dim=1) <= 0).all())


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_what_is_measured_is_what_a_cache_holds(name):
    from transformers import DynamicCache

    model = family(name)
    decoder = lm_kv.KVCache(model, "keydiff", budget=1.0).decoder
    layer = lm_kv.KVCache(model, "keydiff", budget=1.0).compressed_layers[0]
    ids = torch.randint(97, (4, 256), generator=torch.Generator().manual_seed(0))
    cache = DynamicCache(config=decoder.config)
    decoder(input_ids=ids, past_key_values=cache)
    expected = principal(cache.layers[layer].keys)
    found = measure(decoder, [layer])[layer, "keys"]
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.variance, expected.variance, atol=1e-4, rtol=1e-3)


def test_heads_share_directions_by_what_their_own_are_worth():
    even, steep = torch.ones(2, 8), torch.tensor([[8.0, 4.0, 2.0, 1.0, 0.5, 0.2, 0.2, 0.1]] * 2)
    ranks = shared_ranks({(0, "keys"): steep, (0, "values"): even}, 0.5)
    assert sum(map(sum, ranks.values())) == 16
    # A direction of the even ones is worth an eighth, and so is only the third of the others.
    assert ranks == {(0, "keys"): [3, 3], (0, "values"): [5, 5]}
    # A head that has one direction alone keeps a quarter of its own.
    flat = torch.tensor([[1.0] + [0.0] * 7])
    assert shared_ranks({(0, "keys"): flat, (0, "values"): even[:1]}, 0.5)[0, "keys"] == [2]
    assert shared_ranks({(0, "keys"): steep, (0, "values"): even}, 1.0)[0, "keys"] == [8, 8]
    assert shared_ranks({(0, "keys"): steep, (0, "values"): even}, 0.25)[0, "values"] == [2, 2]


def test_it_is_measured_once_and_also_where_a_policy_is_enabled():
    model = llama(1)
    decoder = lm_kv.KVCache(model, "keydiff", budget=1.0).decoder
    dcache.enable(model, "keydiff", budget=0.5)
    first = bases_of(decoder, [0], 0.5)[0]["keys"]
    calls = []
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    again = bases_of(decoder, [0], 0.5)[0]["keys"]
    hook.remove()
    dcache.disable(model)
    # A few tokens tell whether the weights are those that were measured.
    assert calls == [8]
    assert all(torch.equal(a.directions, b.directions) for a, b in zip(first, again, strict=True))
    assert lm_kv.KVCache(model, lm_kv.matryoshka()).policy.name == "matryoshka"
