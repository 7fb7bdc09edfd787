from tests.lm_kv.policies.common import check_eight_bits


def test_eight_bits_give_the_tokens_of_full_precision_through_the_front_door():
    check_eight_bits("rotatekv", group=8, residual=4)
