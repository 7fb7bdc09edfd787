import numpy as np
import pytest

from dcache.eval.bootstrap import interval


def test_two_prompts_give_the_interval_of_their_four_samples():
    # Means of a resample: 0, 0.5, 0.5, 1, each a quarter of the time; the tails hold a quarter each.
    assert interval([0.0, 1.0], [0, 1]) == (0.0, 1.0)


def test_pictures_of_a_prompt_are_drawn_together():
    # Each prompt's pictures have mean 1, whatever is drawn.
    assert interval([0.0, 2.0, 0.5, 1.5], [0, 0, 1, 1]) == (1.0, 1.0)
    low, high = interval([0.0, 0.5, 1.5, 2.0], [0, 0, 1, 1])
    assert (low, high) == (0.25, 1.75)


def test_a_prompt_with_more_pictures_weighs_more():
    # Drawn once each: (1 + 1 + 4) / 3; twice the first: 1; twice the second: 4.
    assert interval([1.0, 1.0, 4.0], ["a", "a", "b"]) == (1.0, 4.0)
    many = interval([1.0] * 9 + [4.0] * 9, [0] * 9 + list(range(1, 10)), seed=1)
    assert many[0] < 2.5 < many[1]


def test_one_prompt_has_no_interval():
    assert interval([1.0, 2.0, 3.0], [7, 7, 7]) is None


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=30)

    assert interval(values, range(30)) == interval(values, range(30))
    assert interval(values, range(30)) != interval(values, range(30), seed=1)


def test_it_covers_the_true_mean_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        of_prompt = random.exponential(1.0, 40)
        values = (of_prompt[:, None] + random.normal(0, 0.3, (40, 2))).reshape(-1)
        low, high = interval(values, np.repeat(np.arange(40), 2), resamples=300)
        covered += low <= 1.0 <= high

    # A percentile interval of forty skewed values falls a little short of 95 %.
    assert covered / 300 == pytest.approx(0.93, abs=0.04)
