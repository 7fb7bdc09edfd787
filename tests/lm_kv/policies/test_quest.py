import pytest

from dcache import DcacheError, lm_kv
from tests.lm_kv.policies.common import check_a_part_is_read


def test_all_tokens_are_kept_and_a_part_is_read():
    check_a_part_is_read(lm_kv.quest(page=4, window=4))


def test_an_option_outside_its_range_is_refused():
    with pytest.raises(DcacheError, match="page must be a whole number of at least 1"):
        lm_kv.quest(page=0)
