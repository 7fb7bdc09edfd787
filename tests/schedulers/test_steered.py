"""The steered change rule: the share is exact, the change decides the places; thresholds by hand."""

import math
import random

import pytest

from dcache.errors import DcacheError
from dcache.schedulers import Steered, guarded
from dcache.schedulers.steered import FRONT_LOADED, GAIN, THRESHOLD
from tests.rules import computed_steps, moment


@pytest.mark.parametrize("share", [0.15, 0.25, 0.45, 0.5, 0.9])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1e6])
def test_the_share_is_exact_whatever_the_changes_are(share, scale):
    rng = random.Random(0)
    changes = [scale * rng.random() for _ in range(20)]
    computed = computed_steps(guarded(Steered(share), warmup=2), 20, changes)
    assert len(computed) == round(20 * share)
    assert computed[:2] == [0, 1]


def test_the_change_decides_the_places():
    # Three of ten, one of them after the warm-up: the evaluation whose change is large.
    changes = [0.0] * 10
    changes[6] = 100.0
    assert computed_steps(guarded(Steered(0.3), warmup=2), 10, changes) == [0, 1, 6]
    # Without a change the last of the share is spent at the end of the run.
    assert computed_steps(guarded(Steered(0.3), warmup=2), 10, [0.0] * 10) == [0, 1, 9]


def test_the_threshold_grows_with_the_computes_ahead_of_the_plan():
    # Evaluation 8 of 27 with 9 computes: planned 9 * (8 / 27)^(2 / 3) = 4 computes.
    assert FRONT_LOADED == 1.5
    rule = Steered(1 / 3, threshold=0.1)

    def reason(predicted, change):
        return rule(moment(8, 27, change=change, memory={"predicted": float(predicted)}))

    # As planned, 4 computes and 4 predictions: the threshold itself.
    assert reason(4, 0.0999) is None
    assert reason(4, 0.1001) == "threshold"
    # 2 of 4: a half to the fourth power; 6 of 4: three halves.
    assert GAIN == 4.0
    assert reason(6, 0.1 / 16 + 1e-6) == "threshold"
    assert reason(6, 0.1 / 16 - 1e-6) is None
    assert reason(2, 0.1 * 1.5**4 + 1e-6) == "threshold"
    assert reason(2, 0.1 * 1.5**4 - 1e-6) is None


def test_without_a_threshold_it_follows_the_share():
    # Half of 8 evaluations, evaluation 1, one compute: planned 4 * (1 / 8)^(2 / 3) = 1.
    edge = THRESHOLD / 0.5**2
    assert Steered(0.5)(moment(1, 8, change=edge - 1e-6)) is None
    assert Steered(0.5)(moment(1, 8, change=edge + 1e-6)) == "threshold"


def test_not_a_number_computes():
    assert Steered(0.5)(moment(2, 8, change=math.nan)) == "nan"
    assert Steered(0.5)(moment(2, 8, change=math.inf)) == "threshold"


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
