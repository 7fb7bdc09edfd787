"""The rows of `dkv`, by hand."""

from dcache.methods import dkv
from tests.diffusion_lm.steps import columns, listed, step


def test_decode_computes_masked_rows_and_all_at_intervals():
    policy = dkv(refresh=4).policy
    assert [policy.refresh(step(in_block=n)) for n in range(5)] == ["block", None, None, None, "interval"]
    assert listed(policy.rows(step())) == [[5, 8, 9, 10, 11], [4, 6, 9]]
    assert dkv(refresh=0).policy.refresh(step(in_block=8)) is None


def test_greedy_computes_the_next_rows_and_their_nearest_masks():
    policy = dkv(variant="greedy", window=2).policy
    upcoming = columns([9], [6])
    # 8 and 10 are as near to 9; of 4 and 9, 4 is nearer to 6.
    assert listed(policy.rows(step(upcoming=upcoming))) == [[8, 9, 10], [4, 6, 9]]
    assert listed(dkv(variant="greedy", window=1).policy.rows(step(upcoming=upcoming))) == [[8, 9], [4, 6]]
    assert policy.upcoming


def test_prefill_never_computes_the_prompt_again():
    assert listed(dkv(variant="prefill").policy.rows(step())) == [list(range(4, 12))] * 2
    policy = dkv(variant="pd", refresh=2).policy
    assert policy.refresh(step(in_block=0)) is None
    assert listed(policy.rows(step(in_block=2))) == [list(range(4, 12))] * 2
    assert listed(policy.rows(step(in_block=1))) == [[5, 8, 9, 10, 11], [4, 6, 9]]
