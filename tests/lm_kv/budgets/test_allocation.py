import pytest
import torch

from dcache.lm_kv.budgets.allocation import (
    ALWAYS,
    NOTHING,
    keep_global,
    keep_heads,
    keep_uniform,
    layer_budgets,
    preference_budgets,
)

# Two heads; the second one's scores are all lower.
SCORES = torch.tensor([[[9.0, 8.0, 7.0, 6.0], [5.0, 4.0, 3.0, 2.0]]])


def kept(mask: torch.Tensor) -> list[list[int]]:
    return [head.nonzero().flatten().tolist() for head in mask[0]]


def test_uniform_keeps_as_many_in_each_head():
    assert kept(keep_uniform(SCORES, torch.tensor([2]))) == [[0, 1], [0, 1]]


def test_ties_keep_the_lowest_position():
    assert kept(keep_uniform(torch.zeros(1, 1, 4), torch.tensor([2]))) == [[0, 1]]


def test_protected_tokens_stay_and_empty_slots_never_do():
    scores = torch.tensor([[[1.0, 2.0, ALWAYS, NOTHING]]])
    assert kept(keep_uniform(scores, torch.tensor([2]))) == [[1, 2]]
    assert kept(keep_uniform(scores, torch.tensor([4]))) == [[0, 1, 2]]


def test_heads_share_a_budget_above_their_floor():
    assert kept(keep_heads(SCORES, torch.tensor([2]), floor=0.5)) == [[0, 1, 2], [0]]
    assert kept(keep_heads(SCORES, torch.tensor([2]), floor=0.0)) == [[0, 1, 2, 3], []]
    assert kept(keep_heads(SCORES, torch.tensor([2]), floor=1.0)) == [[0, 1], [0, 1]]


def test_rows_have_budgets_of_their_own():
    rows = torch.cat([SCORES, SCORES])
    mask = keep_heads(rows, torch.tensor([1, 2]), floor=0.0)
    assert mask.sum((1, 2)).tolist() == [2, 4]


def test_all_layers_share_a_global_budget():
    layers = [SCORES, SCORES - 5.5]
    # Eight tokens: the first layer's first head and three of its second, and the best of the second layer.
    first, second = keep_global(layers, torch.tensor([2]), floor=0.0)
    assert kept(first) == [[0, 1, 2, 3], [0, 1, 2]]
    assert kept(second) == [[0], []]


def test_a_global_budget_is_spent_to_the_last_token_with_random_scores():
    layers = [torch.randn(3, 4, n) for n in (30, 25, 40)]
    masks = keep_global(layers, torch.tensor([5, 7, 11]), floor=0.2)
    assert sum(mask.sum((1, 2)) for mask in masks).tolist() == [5 * 12, 7 * 12, 11 * 12]
    assert min(int(mask[2].sum(1).min()) for mask in masks) >= 2


@pytest.mark.parametrize(
    ("tokens", "layers", "least", "most"), [(10, 7, 2, 100), (33, 4, 6, 50), (5, 2, 5, 5)]
)
def test_layer_budgets_fall_and_add_up(tokens, layers, least, most):
    budgets = layer_budgets(tokens, layers, least, most)
    assert sum(budgets) == tokens * layers
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[-1] >= least
    assert budgets[0] <= most


def test_a_single_layer_has_the_budget():
    assert layer_budgets(10, 1, 2, 100) == [10]


@pytest.mark.parametrize(
    ("tokens", "preferences", "least", "most"),
    [
        (10, [1.0, 1.0, 1.0], 2, [40, 40, 40]),
        (10, [1e-9, 5.0, 3.0], 3, [40, 40, 40]),
        (10, [0.0, 0.0, 0.0], 0, [40, 40, 40]),
        (33, [7.0, 1.0, 2.0, 0.3], 6, [50, 8, 50, 50]),
        (20, [1.0, 2.0], 2, [15, 18]),
    ],
)
def test_preference_budgets_add_up_within_their_bounds(tokens, preferences, least, most):
    budgets = preference_budgets(tokens, preferences, least, most)
    assert sum(budgets) == min(tokens * len(preferences), sum(most))
    assert all(least <= budget <= limit for budget, limit in zip(budgets, most, strict=True))
    if len(set(preferences)) == 1:
        assert set(budgets) == {tokens}
