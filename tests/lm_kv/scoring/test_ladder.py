import pytest

from dcache.lm_kv.scoring.ladder import Ladder
from tests.lm_kv.scoring.test_scorers import context, stored


def kept(ladder: Ladder, layer: int, layers: int, tokens: int, budget: int) -> list[int]:
    """Positions of the highest scores, of equal ones the lowest."""
    one = context(tokens, layers=layers)
    score = ladder.score(stored([[1.0]] * tokens), one.__class__(layer, *list(vars(one).values())[1:]))[0, 0]
    return sorted(score.argsort(descending=True, stable=True)[:budget].tolist())


@pytest.mark.parametrize(
    ("layer", "budget", "expected"),
    [
        # Rungs of two, of which layers keep the first or the second in turn; the oldest go first.
        (0, 10, [0, 2, 4, 5, 6, 7, 8, 9, 10, 11]),
        (1, 10, [1, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        (0, 6, [0, 2, 4, 6, 8, 10]),
        (1, 6, [1, 3, 5, 7, 9, 11]),
        # What is left makes rungs again: 0, 2 | 4, 6 | 8, 10.
        (0, 4, [0, 4, 8, 10]),
        (1, 4, [3, 7, 9, 11]),
        (0, 3, [0, 4, 8]),
    ],
)
def test_two_layers_keep_every_other_token_in_turn(layer, budget, expected):
    assert kept(Ladder(0, 1), layer, 2, 12, budget) == expected


def test_a_rung_is_as_published():
    # 32 layers, each token in 16 of them: one of every two; with an overlap of 8, two of three.
    assert Ladder(4).rung(32) == (2, 1)
    assert Ladder(4, 16, 8).rung(32) == (3, 2)
    assert Ladder(4, 4).rung(32) == (8, 1)
    # Four layers keep one token each of a rung of four; every token is kept by one of them.
    rows = [set(kept(Ladder(0, 1), layer, 4, 16, 4)) for layer in range(4)]
    assert set().union(*rows) == set(range(16))


def test_with_one_layer_it_is_a_window():
    assert kept(Ladder(0), 0, 1, 12, 5) == [7, 8, 9, 10, 11]
