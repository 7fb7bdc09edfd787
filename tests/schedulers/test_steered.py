"""The steered change rule: the share is exact, the change decides the places; thresholds by hand."""

import math
import random

import pytest

from dcache.errors import DcacheError
from dcache.schedulers import Steered, guarded
from dcache.schedulers.steered import BAND, EARLY, THRESHOLD
from tests.rules import computed_steps, moment


@pytest.mark.parametrize("share", [0.15, 0.25, 0.45, 0.5, 0.9])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1e6])
def test_the_share_is_exact_whatever_the_changes_are(share, scale):
    rng = random.Random(0)
    changes = [scale * rng.random() for _ in range(20)]
    computed = computed_steps(guarded(Steered(share), warmup=2), 20, changes)
    assert len(computed) == round(20 * share)
    assert computed[:2] == [0, 1]


def planned(computes, x):
    """The formula of the class."""
    return computes * ((1 - EARLY) * x + EARLY * (1 - math.exp(-10 * x)))


def test_the_change_decides_the_places_near_the_plan():
    # Planned for 4 of 10 are 1.72 at 3, 2.07 at 4, 2.39 at 5; then, with 3 done, 3.36 at 8 and 3.68 at 9.
    assert planned(4, 0.5) == pytest.approx(2.3946, abs=1e-4)
    changes = [0.0] * 10
    changes[5] = 100.0
    assert computed_steps(guarded(Steered(0.4), warmup=2), 10, changes) == [0, 1, 5, 9]
    # Without changes each comes where the plan is a band ahead; with many, where it is a band behind.
    late = [t for t, done in ((6, 2), (9, 3)) if planned(4, t / 10) - done >= BAND]
    assert computed_steps(guarded(Steered(0.4), warmup=2), 10, [0.0] * 10) == [0, 1, *late]
    early = computed_steps(guarded(Steered(0.4), warmup=2), 10, [100.0] * 10)
    assert all(i - planned(4, t / 10) < BAND for i, t in enumerate(early) if t >= 2)


def test_in_the_band_the_threshold_decides():
    # Evaluation 10 of 20 with 10 computes.
    plan = planned(10, 0.5)
    assert plan == pytest.approx(5.9865, abs=1e-4)
    rule = Steered(0.5, threshold=0.1)

    def reason(done, change):
        return rule(moment(10, 20, change=change, memory={"predicted": 10.0 - done}))

    assert reason(6, 0.0999) is None
    assert reason(6, 0.1001) == "threshold"
    assert reason(5, 0.0) == "share"
    assert reason(7, 99.0) is None


def test_without_a_threshold_it_follows_the_share():
    edge = THRESHOLD / 0.5**2
    memory = {"predicted": 4.0}
    assert Steered(0.5)(moment(10, 20, change=edge - 1e-6, memory=dict(memory))) is None
    assert Steered(0.5)(moment(10, 20, change=edge + 1e-6, memory=dict(memory))) == "threshold"


def test_not_a_number_computes():
    memory = {"predicted": 4.0}
    assert Steered(0.5)(moment(10, 20, change=math.nan, memory=dict(memory))) == "nan"
    assert Steered(0.5)(moment(10, 20, change=math.inf, memory=dict(memory))) == "threshold"


def test_what_is_spent_needs_no_change():
    def refuse():
        raise AssertionError

    assert Steered(0.5)(moment(4, 8, change=refuse)) is None
    assert Steered(0.5)(moment(7, 8, change=refuse, memory={"predicted": 4.0})) == "share"


def test_shares_that_compute_everything_predict_nothing():
    assert not Steered(1.0).may_predict(None)
    assert not Steered(0.99).may_predict(10)
    assert Steered(0.99).may_predict(None)
    assert Steered(0.5).may_predict(10)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan, "half", True])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(DcacheError, match="share must be a number above 0 and at most 1"):
        Steered(share)


def test_a_run_of_unknown_length_is_computed():
    assert computed_steps(Steered(0.5), 4, [0.0] * 4, known=False) == [0, 1, 2, 3]
