import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.bases import HeadBasis
from dcache.lm_kv.codecs.codec import LayerFacts
from dcache.lm_kv.codecs.on_bases import BasisCodec
from tests.lm_kv.codecs.common import encode_keys
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    llama,
    prefilled,
)

CODEC = lm_kv.matryoshka(residual=2)


def test_runs_have_the_directions_of_their_heads():
    units = torch.eye(4).half()
    keys = tuple(HeadBasis(torch.zeros(4), units[head : head + 1]) for head in range(2))
    values = tuple(HeadBasis(torch.zeros(4), units[2 + head :]) for head in range(2))
    codec = BasisCodec(0.5, 0).bound(LayerFacts(bases={"keys": keys, "values": values}))
    # Two rows of two heads.
    tokens, lengths = torch.ones(7, 4), torch.tensor([[2, 1], [1, 3]])
    first, second = [1, 0, 0, 0], [0, 1, 0, 0]
    decoded = codec.decode(encode_keys(codec, tokens, lengths)).tolist()
    assert decoded == [first] * 2 + [second] + [first] + [second] * 3
    decoded = codec.decode(codec.encode_values(tokens, lengths)).tolist()
    assert decoded == [[0, 0, 1, 1]] * 2 + [[0, 0, 0, 1]] + [[0, 0, 1, 1]] + [[0, 0, 0, 1]] * 3


@pytest.mark.parametrize("options", [{}, {"codec": CODEC, "budget": 0.5}], ids=["matryoshka", "keydiff"])
def test_a_padded_row_equals_its_single_run_while_encoding_and_evicting(options):
    policy = lm_kv.keydiff(every=4) if options else CODEC
    _, caches = check_a_padded_row_is_as_alone(llama().double(), batch(), policy, **options)
    stores = [layer.store for cache in caches for layer in cache.layers[:1]]
    assert all(isinstance(segment.codec, BasisCodec) for store in stores for segment in store.segments)


@torch.no_grad()
def test_a_forked_a_loaded_and_a_reordered_cache_go_on_alike(tmp_path):
    model, inputs = llama(), batch()
    for policy, more in ((CODEC, {}), (lm_kv.keydiff(), {"codec": CODEC, "budget": 0.5})):
        cache = prefilled(model, policy, inputs, **more)
        others = copies(cache, model, tmp_path / "cache")
        assert others[1].policy.codec == cache.policy.codec
        check_they_go_on_alike(model, [cache, *others], steps=6, atol=1e-5)


@pytest.mark.parametrize("share", [0.2, 1.5, "half", None])
def test_shares_outside_their_range_are_refused(share):
    with pytest.raises(DcacheError, match=r"share must be a number from 0\.25 to 1, got"):
        lm_kv.matryoshka(share=share)
