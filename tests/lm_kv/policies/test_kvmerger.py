import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefilled


def test_it_keeps_the_tokens_of_h2o_and_merges_others_into_them():
    model, inputs = llama(1), batch()
    merged = prefilled(model, lm_kv.kvmerger(threshold=0.2), inputs, budget=10)
    dropped = prefilled(model, "h2o", inputs, budget=10)
    one, two = (cache.layers[0].store.segments[0] for cache in (merged, dropped))
    assert torch.equal(one.positions, two.positions)
    assert two.bias is None
    # The bias is the logarithm of whole numbers, and tokens that none was merged into are as they were.
    counts = one.bias.exp()
    torch.testing.assert_close(counts, counts.round())
    assert counts.max() > 1.5
    assert torch.equal(one.keys[counts < 1.5], two.keys[counts < 1.5])


def test_a_threshold_outside_its_range_is_refused():
    with pytest.raises(DcacheError, match="threshold must be a number from -1 to 1"):
        lm_kv.kvmerger(threshold=1.5)
