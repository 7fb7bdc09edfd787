import pytest

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, family, llama, prefilled
from tests.lm_kv.policies.common import check_a_part_is_read


def test_all_tokens_are_kept_and_a_part_is_read():
    check_a_part_is_read(lm_kv.a2ats(codes=8, sinks=0, window=4))


def test_keys_and_values_are_on_the_host():
    stats = prefilled(
        llama(1), lm_kv.a2ats(codes=8, queries=4, sinks=0, window=4), batch(), budget=0.4
    ).stats()
    # 23 and 36 tokens left the tail, keys and values in two heads of 16 channels and four bytes.
    assert stats.bytes_host == (23 + 36) * 2 * 2 * 16 * 4
    # Elsewhere: eight codewords in two heads of both rows, codes of 36 slots, and four tokens of the tail.
    index, tail = 4 * (8 * 16 * 4 + 36 * 2), 2 * 4 * (2 * 2 * 16 * 4 + 4 + 1)
    queries = 2 * 4 * (4 * 16 * 4 + 8 + 1)
    places = (23 + 36) * 2 * 4 + 4 * 8
    assert stats.bytes_held == stats.bytes_host + index + tail + queries + places


def test_a_model_without_rotations_is_refused():
    with pytest.raises(DcacheError, match="by something other than a rotation"):
        lm_kv.KVCache(family("gpt2"), "a2ats", budget=8)


def test_options_outside_their_range_are_refused():
    for option, value in (("codes", 0), ("distance", -1), ("queries", 0), ("codes", 40000)):
        with pytest.raises(DcacheError, match=f"{option} must be a whole number"):
            lm_kv.a2ats(**{option: value})
