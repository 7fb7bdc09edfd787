"""Lengths of runs that nothing announces, from the runs before."""

from collections.abc import Sequence

from dcache.identity.lengths import MOST, Lengths
from dcache.identity.run import Run


def walked(lengths: Lengths, times: Sequence[float | None], sampler: str = "") -> list[int | None]:
    """What a run with these timesteps is expected to have, at each of its evaluations."""
    run = Run(started=True, sampler=sampler)
    run.tell(times[0], None)
    lengths.foresee(run)
    seen = [run.expected]
    for i, time in enumerate(times[1:], 1):
        run.index = i
        run.tell(time, None)
        seen.append(run.expected)
    return seen


def learn(lengths: Lengths, times: Sequence[float | None], sampler: str = "") -> int:
    run = Run(started=True, sampler=sampler, told={i: (t, None) for i, t in enumerate(times)})
    return lengths.learn(run, len(times))


def test_a_run_is_as_long_as_the_newest_with_the_same_timesteps_so_far() -> None:
    lengths = Lengths()
    assert walked(lengths, [9, 5, 1]) == [None] * 3
    assert learn(lengths, [9, 5, 1]) == 3
    assert walked(lengths, [9, 5, 1]) == [3, 3, 3]
    assert walked(lengths, [9, 7, 5]) == [3, None, None]
    assert walked(lengths, [8, 5, 1]) == [None] * 3
    learn(lengths, [9, 7, 5, 3])
    assert walked(lengths, [9, 5, 1]) == [4, 3, 3]
    assert walked(lengths, [9, 7, 5, 3]) == [4] * 4
    # Longer than those before.
    assert walked(lengths, [9, 7, 5, 3, 1]) == [4, 4, 4, 4, None]


def test_the_beginning_of_a_longer_run_was_broken_off() -> None:
    lengths = Lengths()
    learn(lengths, [9, 5, 1])
    assert learn(lengths, [9, 5]) == 3
    assert walked(lengths, [9, 5]) == [3, 3]
    # And the longer one takes the place of the one that was broken off before it.
    learn(lengths, [8, 4])
    assert learn(lengths, [8, 4, 2]) == 3
    assert walked(lengths, [8, 4, 2]) == [3, 3, 3]


def test_without_timesteps_the_newest_length_counts() -> None:
    lengths = Lengths()
    for count in (5, 3, 4):
        assert learn(lengths, [None] * count) == count
        assert walked(lengths, [None] * count) == [count] * count


def test_samplers_have_runs_of_their_own_and_old_ones_are_dropped() -> None:
    lengths = Lengths()
    learn(lengths, [9, 5], "Odd")
    assert walked(lengths, [9, 5]) == [None, None]
    assert walked(lengths, [9, 5], "Odd") == [2, 2]
    for k in range(MOST):
        learn(lengths, [20.0 + k, 5.0], "Odd")
    assert walked(lengths, [9, 5], "Odd") == [None, None]
    assert walked(lengths, [20.0, 5.0], "Odd") == [2, 2]
