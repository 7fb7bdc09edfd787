import math

import numpy as np
import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.budgets.budget import Budget


def test_a_share_is_of_each_rows_tokens_and_rounds_down_to_at_least_one():
    assert Budget(0.25).tokens([3, 4, 27, 40]) == [1, 1, 6, 10]


def test_a_whole_number_is_tokens_and_never_more_than_there_are():
    assert Budget(8).tokens([3, 40]) == [3, 8]


def test_one_is_one_token_and_one_point_zero_is_all():
    assert Budget(1).tokens([40]) == [1]
    assert Budget(1.0).tokens([40]) == [40]
    assert str(Budget(1)) == "1 token per KV head"
    assert str(Budget(1.0)) == "1 of each row's tokens"


@pytest.mark.parametrize("size", [np.int64(8), torch.tensor(8), np.float64(0.2)], ids=range(3))
def test_numbers_of_numpy_and_torch_are_numbers(size):
    # As a share, eight would be all tokens.
    assert Budget(size).tokens([40]) == [8]
    assert type(Budget(size).size) in (int, float)


def test_a_product_that_floats_put_below_a_whole_number_is_that_number():
    assert math.floor(0.29 * 100) == 28
    assert Budget(0.29).tokens([100]) == [29]


@pytest.mark.parametrize("size", [0, 0.0, -1, 1.5, 2.0, True, False, math.nan, math.inf, "half", None])
def test_what_is_neither_is_refused(size):
    with pytest.raises(DcacheError, match=r"budget must be a float in \(0, 1\]"):
        Budget(size)


@pytest.mark.parametrize(("size", "most"), [(8, 8), (0.5, 0), (1.0, math.inf)])
def test_a_text_of_at_most_so_many_tokens_always_fits(size, most):
    assert Budget(size).whole == most
