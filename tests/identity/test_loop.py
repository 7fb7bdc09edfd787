"""Identity in hand-written loops, from timesteps alone."""

import pytest

from dcache.errors import DcacheError
from dcache.identity.loop import MOST_BRANCHES, Loop


def walk(values, is_sigma=False):
    """(number of the run, evaluation) of every call."""
    loop, runs, seen = Loop(), [], []
    for value in values:
        run = loop.see(value, is_sigma)
        if not any(run is known for known in runs):
            runs.append(run)
        seen.append((next(i for i, known in enumerate(runs) if known is run), run.index))
    return seen


@pytest.mark.parametrize("sign", [1, -1])
def test_every_new_value_is_an_evaluation_in_either_direction(sign):
    assert walk([sign * t for t in (999, 500, 20, 1)]) == [(0, 0), (0, 1), (0, 2), (0, 3)]


def test_equal_values_are_branches_of_one_evaluation():
    assert walk([9, 9, 5, 5, 1, 1]) == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2), (0, 2)]
    # A branch may stop calling.
    assert walk([9, 9, 9, 5, 5, 1]) == [(0, 0)] * 3 + [(0, 1)] * 2 + [(0, 2)]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_turn_opens_a_new_run(sign):
    values = [sign * t for t in (9, 5, 1, 9, 5, 1)]
    assert walk(values) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_the_direction_is_learned_once():
    # The second run has one evaluation, the third begins higher again.
    assert walk([9, 5, 7, 9, 5]) == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]


def test_a_new_run_may_have_other_branches():
    assert walk([9, 5, 9, 9, 5, 5]) == [(0, 0), (0, 1), (1, 0), (1, 0), (1, 1), (1, 1)]


def test_the_values_are_told_to_the_run():
    loop = Loop()
    run = loop.see(9.0, False)
    assert run.started
    assert run.clock("timestep") == 9.0
    loop.see(5.0, False)
    assert run.clock("timestep") == 5.0
    assert run.clock(None) == 5.0
    sigmas = Loop()
    assert sigmas.see(2.0, True).clock("sigma") == 2.0
    assert run.count is None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([None], "no timestep argument with one value"),
        ([9, None], "no timestep argument with one value"),
        # Heun: the second evaluation of a step and the first of the next share a timestep.
        ([999, 749, 749], "second-order"),
        ([999, 999, 749, 749, 749], "second-order"),
        # Guidance that starts late.
        ([9, 7, 5, 5], "starts late"),
        ([5] * (MOST_BRANCHES + 1), f"{MOST_BRANCHES + 1} times with one timestep"),
    ],
)
def test_ambiguity_is_an_error_that_names_the_way_out(values, says):
    loop = Loop()
    for value in values[:-1]:
        loop.see(value, False)
    with pytest.raises(DcacheError, match=says) as caught:
        loop.see(values[-1], False)
    assert "dcache.step(module, index=" in str(caught.value)


def test_as_many_equal_calls_as_there_may_be_branches_are_accepted():
    assert walk([5] * MOST_BRANCHES) == [(0, 0)] * MOST_BRANCHES


def test_a_stage_is_an_evaluation_of_its_own_at_the_same_value() -> None:
    # Runge-Kutta: a step begins, two stages in its middle, one at its end, where the next step begins.
    loop = Loop()
    seen = [
        (90, False),
        (75, False),
        (75, True),
        (60, False),
        (60, True),
        (45, False),
        (45, True),
        (30, False),
    ]
    runs = [loop.see(float(value), False, bool(stage)) for value, stage in seen]
    assert all(run is runs[0] for run in runs)
    assert runs[0].index == 7
    assert [runs[0].told[i][0] for i in range(8)] == [90, 75, 75, 60, 60, 45, 45, 30]


@pytest.mark.parametrize(
    ("before", "values", "joins"),
    [
        (90, (80, 70, 60), True),
        # Gaps of one grid differ by half at most.
        (90, (80, 66), True),
        (90, (80, 64), False),
        (90, (40, 35), False),
        (10, (20, 30), True),
        # It turned.
        (90, (80, 85), False),
        (70, (80, 70), False),
    ],
)
def test_a_lone_evaluation_joins_the_run_whose_timesteps_go_on_evenly(
    before: float, values: tuple[float, ...], joins: bool
) -> None:
    loop = Loop(before)
    first = loop.see(values[0], False)
    assert (first.index, first.doubtful) == (0, True)
    second = loop.see(values[1], False)
    assert second is first
    assert second.index == (2 if joins else 1)
    told = [before, *values[:2]] if joins else values[:2]
    assert [second.told[i][0] for i in sorted(second.told)] == list(told)
    for value in values[2:]:
        assert loop.see(value, False).index == 3
