import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.on_bases import BasisCodec
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    llama,
    prefilled,
)

CODEC = lm_kv.matryoshka(residual=2)


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
