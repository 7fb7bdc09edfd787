"""SmoothCache: a row of hand-made errors, one row for each kind, and its limits."""

from itertools import pairwise

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.smoothcache import levels
from tests.schedulers.planners.small_profiles import drifting, profile, rows


def line(slope: float, steps: int = 10) -> np.ndarray:
    """Features 100 + slope t: relative errors slope |t - a| / (100 + slope t)."""
    return (100.0 + slope * np.arange(steps))[:, None] * np.ones((1, 3))


def test_a_row_by_hand():
    # From 0 at slope 10: 1/11, 2/12 = .167, 3/13 = .231; from 3: 1/14, 2/15 = .133, 3/16 = .188.
    seen = profile({"mlp:0": line(10.0)})
    assert rows(plans.make("smoothcache", seen, alpha=0.18))["mlp:0"] == [0, 3, 6, 9]
    assert rows(plans.make("smoothcache", seen, alpha=0.1))["mlp:0"] == [0, 2, 4, 6, 8, 9]
    assert rows(plans.make("smoothcache", seen, alpha=0.19))["mlp:0"] == [0, 3, 7, 9]


def test_the_last_evaluation_is_computed_and_runs_are_bounded():
    still = profile({"attn:0": line(0.0)})
    assert rows(plans.make("smoothcache", still, alpha=0.01))["attn:0"] == [0, 4, 8, 9]
    assert rows(plans.make("smoothcache", still, alpha=0.01, lookahead=9))["attn:0"] == [0, 9]


def test_alpha_0_computes_everything():
    seen = profile({site: drifting(8, i) for i, site in enumerate(("attn:0", "mlp:0"))})
    assert rows(plans.make("smoothcache", seen, alpha=0.0)) == {s: list(range(8)) for s in seen.sites}


def test_a_kind_is_planned_together_by_its_mean_error():
    # Alone mlp:0 allows all and mlp:1 nothing; their mean errors at slope 0 and 30 are those of 1.5/11.5 ...
    seen = profile({"mlp:0": line(0.0), "mlp:1": line(30.0), "attn:0": line(0.0)})
    found = rows(plans.make("smoothcache", seen, alpha=0.12))
    assert found["mlp:0"] == found["mlp:1"]
    # (30 / 130) / 2 = .115 and (60 / 160) / 2 = .188: first runs of one; then longer ones.
    assert found["mlp:0"][:2] == [0, 2]
    assert found["attn:0"] == [0, 4, 8, 9]


def test_levels_compute_less_and_less():
    seen = profile({site: drifting(12, i) for i, site in enumerate(("attn:0", "cross_attn:0", "mlp:0"))})
    counts = [
        sum(map(len, rows(plans.make("smoothcache", seen, **level)).values())) for level in levels(seen)
    ]
    assert counts[0] == 36
    assert counts[-1] == 6
    # Not strictly: an anchor that moves may add one elsewhere.
    assert all(b <= a + 1 for a, b in pairwise(counts))


def test_without_sublayers_it_says_what_there_is():
    with pytest.raises(
        DcacheError, match="smoothcache plans for attn, cross_attn, mlp: the profile has trunk"
    ):
        plans.make("smoothcache", profile({"trunk": drifting(5, 0)}))
