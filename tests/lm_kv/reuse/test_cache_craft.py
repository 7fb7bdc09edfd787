import math

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.reuse.cache_craft import context_impact, overlap
from dcache.lm_kv.reuse.context import Context
from tests.lm_kv.reuse.common import NEW, PARTS, behind, chunks, close, usual, whole

# Two layers, three parts of 2, 4 and 8 tokens, a chunk of four tokens.
CONTEXT = Context(
    ("a", "b", "c"),
    torch.tensor([2, 4, 8]),
    torch.tensor([[0.4, 0.8, 0.8], [0.8, 0.0, 0.0]]),
    torch.tensor([2.0, 3.2]),
    torch.tensor([0.1, 0.4, 0.3, 0.4]),
)


def test_the_impact_is_that_of_the_equations():
    # (0.4 / 8 + 0.8 / 16 + 0.8 / 32 + 0.8 / 8) / 2 of outside, (2 + 3.2) / 2 / 16 of inside.
    ratio = ((0.05 + 0.05 + 0.025 + 0.1) / 2) / (2.6 / 16)
    assert context_impact(CONTEXT) == pytest.approx(1 / (1 + math.exp(-ratio)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b", "c"], 1.0),
        (["x", "a"], 1.2 / 2.8),
        ([], 0.0),
        # Of three pairs one stands in another order; of one pair the one.
        (["a", "c", "x", "b"], 2 / 3),
        (["c", "a"], 0.0),
        (["a", "x", "c"], 2.0 / 2.8),
    ],
    ids=range(6),
)
def test_the_overlap_is_the_attention_to_parts_that_are_there_in_their_order(names, expected):
    assert overlap(CONTEXT, names) == pytest.approx(expected)


def in_order() -> list[lm_kv.Chunk]:
    """The parts, each computed behind those before it."""
    return [lm_kv.encode(usual(), part, behind=PARTS[:number]) for number, part in enumerate(PARTS)]


def test_chunks_behind_what_they_were_computed_behind_are_the_whole_prefill_for_nothing():
    joined = lm_kv.join(usual(), in_order(), "cache_craft")
    assert joined.computed == (0.0,)
    close(behind(usual(), joined), whole(usual(), *PARTS))


def test_a_large_share_is_the_whole_prefill():
    parts = [
        chunks()[0],
        lm_kv.encode(usual(), PARTS[1], behind=[NEW]),
        lm_kv.encode(usual(), PARTS[2], [NEW]),
    ]
    joined = lm_kv.join(usual(), parts, lm_kv.cache_craft(alpha=100.0))
    # All but the first chunk, which stands where it was computed.
    assert joined.tokens[0].tolist() == [False] * 9 + [True] * 25
    close(behind(usual(), joined), whole(usual(), *PARTS))


def test_the_tokens_are_those_that_looked_outside_most():
    chunk = lm_kv.encode(usual(), PARTS[1], behind=[NEW])
    joined = lm_kv.join(usual(), [chunks()[0], chunk], lm_kv.cache_craft(alpha=0.5))
    count = math.ceil(0.5 * context_impact(chunk.context) * 14)
    assert 0 < count < 14
    chosen = joined.tokens[0, 9:].nonzero()[:, 0].tolist()
    assert chosen == chunk.context.tokens.topk(count).indices.sort().values.tolist()
    assert joined.computed == pytest.approx((count / 23,))
    none = lm_kv.join(usual(), [chunks()[0], chunk], lm_kv.cache_craft(alpha=0.0))
    assert none.computed == (0.0,)


def test_the_variant_with_the_least_share_is_taken():
    wrong = [chunks()[0], lm_kv.encode(usual(), PARTS[1], [NEW]), lm_kv.encode(usual(), PARTS[2], [NEW])]
    joined = lm_kv.join(usual(), wrong, lm_kv.cache_craft(variants=in_order()))
    assert joined.computed == (0.0,)
    close(behind(usual(), joined), whole(usual(), *PARTS))
    for chunk, before in zip(wrong, in_order(), strict=True):
        assert chunk.name == before.name


def test_a_chunk_that_looked_at_nothing_is_refused_behind_other_text():
    with pytest.raises(DcacheError, match=r"computed by itself: encode it with behind=\[...\], or join by"):
        lm_kv.join(usual(), chunks(), "cache_craft")


@pytest.mark.parametrize(
    ("option", "value"), [("alpha", -0.1), ("alpha", "x"), ("variants", [NEW]), ("variants", None)]
)
def test_options_outside_their_range_are_refused(option, value):
    with pytest.raises(DcacheError, match=option):
        lm_kv.cache_craft(**{option: value})
