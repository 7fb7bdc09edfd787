"""Changed noise levels: what they add up to."""

import itertools
import random

import pytest

from dcache.errors import DcacheError
from dcache.schedule.noise_levels import adjusted, check_grid


def grid(steps, rng=None):
    middle = sorted((rng.random() for _ in range(steps - 1)), reverse=True) if rng else None
    return [1.0, *(middle or [1 - i / steps for i in range(1, steps)]), 0.0]


def lengths(sigmas):
    return [a - b for a, b in itertools.pairwise(sigmas)]


def test_the_way_is_as_long_as_before_and_every_step_goes_down():
    rng = random.Random(0)
    for _ in range(200):
        steps = rng.randrange(2, 30)
        sigmas = grid(steps, rng)
        factors = [rng.choice([1.0, rng.uniform(0.1, 1.0)]) for _ in range(steps)]
        found = adjusted(sigmas, factors)
        assert len(found) == steps + 1
        assert sum(map(abs, lengths(found))) == pytest.approx(1.0, abs=1e-12)
        assert (found[0], found[-1]) == (1.0, 0.0)
        assert min(lengths(found)) > 0


def test_without_a_factor_the_levels_are_the_same_numbers():
    rng = random.Random(1)
    sigmas = grid(9, rng)
    assert adjusted(sigmas, [1.0] * 9) == tuple(sigmas)
    # The last step takes what is left, whatever its factor.
    assert adjusted(sigmas, [1.0] * 8 + [0.3]) == pytest.approx(sigmas, abs=1e-12)


def test_a_shorter_step_leaves_its_rest_to_those_behind_it_in_proportion():
    # From 1: half of 0.25 is 0.125, so 0.875 are left for three steps of 0.25 out of 0.75.
    found = adjusted(grid(4), [0.5, 1, 1, 1])
    assert found == pytest.approx([1, 0.875, 0.875 * 2 / 3, 0.875 / 3, 0], abs=1e-12)
    # Steps before a shorter one stay as they are: 0.25, 0.25 x 0.2, and the rest in two.
    assert adjusted(grid(4), [1, 0.2, 1, 1]) == pytest.approx([1, 0.75, 0.7, 0.35, 0], abs=1e-12)


@pytest.mark.parametrize("factors", [[1] * 3, [1] * 5, [1, 0, 1, 1], [1, -1, 1, 1], [float("nan")] * 4])
def test_factors_that_make_no_sense_are_refused(factors):
    with pytest.raises(DcacheError, match="expected 4 factors above 0"):
        adjusted(grid(4), factors)


@pytest.mark.parametrize("sigmas", [[1, 1, 0], [0, 1], [1.5, 0], [1, float("nan"), 0], [1, -0.1]])
def test_levels_that_do_not_fall_are_refused(sigmas):
    with pytest.raises(DcacheError, match="must fall from 1 towards 0"):
        adjusted(sigmas, [1.0] * (len(sigmas) - 1))


def test_a_grid_has_a_level_for_each_evaluation_with_or_without_the_ends():
    for levels in ([1.0, 0.5, 0.25], [1.0, 0.5, 0.25, 0.0], [0.9, 0.2, 0.1]):
        check_grid(levels, 3)
    for steps in (1, 4 + 1):
        with pytest.raises(
            DcacheError, match=f"expected {steps} noise levels, .* or {steps + 1} with the end"
        ):
            check_grid([1.0, 0.5, 0.25], steps)
    # Where nobody says how many there are, any number will do.
    check_grid([1.0, 0.5, 0.25], None)


@pytest.mark.parametrize(
    "levels", [[0.5, 0.5], [0.2, 0.4], [1.2, 0.4], [0.4, -0.1], [0.8, float("nan"), 0.1]]
)
def test_a_grid_falls_from_one_towards_zero(levels):
    with pytest.raises(DcacheError, match="noise levels must fall from 1 towards 0, got"):
        check_grid(levels, None)
