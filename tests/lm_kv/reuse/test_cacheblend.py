import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.reuse.common import PARTS, QUESTION, behind, chunks, close, usual, whole


def test_all_tokens_are_the_whole_prefill_in_one_pass():
    joined = lm_kv.join(usual(), chunks(), lm_kv.cacheblend(ratio=1.0))
    close(behind(usual(), joined), whole(usual(), *PARTS))
    assert joined.computed == (1.0,)
    assert bool(joined.tokens.all())


def test_no_token_is_the_plain_concatenation():
    joined = lm_kv.join(usual(), chunks(), lm_kv.cacheblend(ratio=0.0))
    assert joined.computed == (0.0,)
    plain = lm_kv.join(usual(), chunks(), lm_kv.pie())
    for blended, other in zip(joined.cache.layers, plain.cache.layers, strict=True):
        assert torch.equal(blended.store.tail.keys, other.store.tail.keys)
    assert (behind(usual(), joined) - whole(usual(), *PARTS)).abs().max() > 1.0


def test_the_tokens_are_those_whose_keys_deviate_most_at_the_check_layer():
    model = usual()
    (text,) = [torch.cat(PARTS, 1)]
    right, parts = lm_kv.encode(model, text).states, lm_kv.join(model, chunks(), lm_kv.pie())
    wrong = parts.cache.layers[1].store.tail.keys
    deviation = (right.keys[1] - wrong).square().sum((0, 1, 3))
    joined = lm_kv.join(model, chunks(), lm_kv.cacheblend(ratio=0.3))
    # Three tenths of 34 tokens; none of the first chunk, which stands where it was computed.
    assert joined.tokens[0].nonzero()[:, 0].tolist() == deviation.topk(10).indices.sort().values.tolist()
    assert not bool(joined.tokens[0, :9].any())
    # One layer of three for all tokens, three layers for ten.
    assert joined.computed == pytest.approx(((34 + 3 * 10) / (3 * 34),))
    layers = [layer.store.tail for layer in joined.cache.layers]
    # Below the check layer everything is right; at it the chosen tokens are, and no others.
    close(layers[0].keys, right.keys[0])
    close(layers[0].values, right.values[0])
    same = (layers[1].keys - right.keys[1]).abs().amax((0, 1, 3)) < 1e-5
    assert same.tolist() == (joined.tokens[0] | (torch.arange(34) < 9)).tolist()


def test_new_text_is_computed_and_never_counted_among_the_chosen():
    model = usual()
    parts = [chunks()[0], PARTS[1], chunks()[2]]
    joined = lm_kv.join(model, parts, lm_kv.cacheblend(ratio=0.25))
    assert joined.tokens[0].sum() == 14 + 5
    assert bool(joined.tokens[0, 9:23].all())
    close(behind(model, lm_kv.join(model, parts, lm_kv.cacheblend(ratio=1.0))), whole(model, *PARTS))


def test_in_one_layer_no_key_deviates():
    joined = lm_kv.join(usual(1), chunks(1), lm_kv.cacheblend(ratio=0.5))
    assert joined.computed == (0.0,)
    close(behind(usual(1), joined), whole(usual(1), *PARTS))


def test_more_tokens_are_nearer_to_the_whole_prefill():
    expected = whole(usual(), *PARTS)
    errors = []
    for ratio in (0.0, 0.7, 0.8):
        joined = lm_kv.join(usual(), chunks(), lm_kv.cacheblend(ratio=ratio))
        logits = usual()(QUESTION, past_key_values=joined.cache).logits
        errors.append(float((logits[0, -1] - expected[0, 0]).square().mean()))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("check", [3, 7])
def test_the_check_layer_must_be_one_whose_keys_depend_on_other_tokens(check):
    with pytest.raises(DcacheError, match=f"check must be a layer from 1 to 2, got {check}"):
        lm_kv.join(usual(), chunks(), lm_kv.cacheblend(check=check))


@pytest.mark.parametrize(
    ("option", "value"), [("ratio", 1.5), ("ratio", -0.1), ("ratio", "x"), ("check", 0), ("check", 1.5)]
)
def test_options_outside_their_range_are_refused(option, value):
    with pytest.raises(DcacheError, match=option):
        lm_kv.cacheblend(**{option: value})
