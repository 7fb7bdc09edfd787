"""Rules made of rules: kinds, stages, windows of timesteps, and shares of a depth."""

import math

import pytest
from torch import nn

from dcache.errors import DcacheError
from dcache.methods import delta_dit, fastercache, pab, tgate
from dcache.schedulers import (
    ByKind,
    BySite,
    DeltaDitStages,
    Every,
    EveryNthIndex,
    OutsideWindow,
    StepTable,
    Switch,
    Warmup,
    any_of,
)
from dcache.schedulers.combine import share_of
from dcache.sites.structure import Structure
from tests.rules import computed_steps, moment


def test_every_kind_goes_by_its_own_rule():
    rule = ByKind({"attn": Every(2), "mlp": Every(3)})
    assert computed_steps(rule, 7, site="attn:1") == [0, 2, 4, 6]
    assert computed_steps(rule, 7, site="mlp:0") == [0, 3, 6]
    assert computed_steps(rule, 4, site="cross_attn:0") == [0, 1, 2, 3]
    assert rule(moment(site="cross_attn:0")) == "kind"


def test_every_site_goes_by_its_own_rule():
    rule = BySite({"attn:1": Every(2), "mlp:0": Every(3)})
    assert computed_steps(rule, 7, site="attn:1") == [0, 2, 4, 6]
    assert computed_steps(rule, 7, site="mlp:0") == [0, 3, 6]
    assert computed_steps(rule, 4, site="attn:0") == [0, 1, 2, 3]
    assert rule(moment(site="attn:0")) == "site"


def test_a_switch_changes_rules_at_an_evaluation():
    rule = Switch(4, Every(1), Every(100))
    assert computed_steps(rule, 8) == [0, 1, 2, 3]
    assert computed_steps(Switch(4, Every(100), Every(1)), 8) == [0, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("time", "reason"),
    [(1000.0, "window"), (850.0, "window"), (849.9, None), (100.1, None), (100.0, "window"), (0.0, "window")],
)
def test_a_window_is_open_at_both_ends(time, reason):
    assert OutsideWindow(100.0, 850.0)(moment(time=time)) == reason


def test_a_window_needs_timesteps():
    with pytest.raises(DcacheError, match=r"\(100, 850\).*dcache\.step\(module, index=\.\.\., timestep="):
        OutsideWindow(100.0, 850.0)(moment())
    for low, high in [(5.0, 4.0), (0.0, math.nan), (0.0, "1"), (0.0, None)]:
        with pytest.raises(DcacheError, match="window"):
            OutsideWindow(low, high)


def test_multiples_are_counted_from_the_start_and_not_from_the_last_compute():
    late = any_of(Warmup(2), EveryNthIndex(3))
    assert computed_steps(late, 8) == [0, 1, 3, 6]
    assert computed_steps(any_of(Warmup(2), Every(3)), 8) == [0, 1, 4, 7]
    assert computed_steps(EveryNthIndex(1), 3) == [0, 1, 2]
    for wrong in (0, 1.5, "2", None):
        with pytest.raises(DcacheError, match="interval"):
            EveryNthIndex(wrong)


def test_a_row_is_looked_up_whatever_the_site():
    row = StepTable((True, False, False, True))
    for site in ("attn:0", "attn:3", "trunk"):
        assert [row(moment(i, site=site)) for i in range(4)] == ["schedule", None, None, "schedule"]


# Depth 8, 6 blocks each: the front run is 0-5, the rear one 2-7, so the atoms are 0-1, 2-5, 6-7.
@pytest.mark.parametrize(
    ("site", "early", "late"),
    [("run:0-1", "stage", None), ("run:2-5", None, None), ("run:6-7", None, "stage")],
)
def test_a_stage_predicts_the_rear_before_the_boundary_and_the_front_from_it_on(site, early, late):
    for rule in (DeltaDitStages(5, 6), DeltaDitStages(5, 0.75), DeltaDitStages(0.5, 6)):
        found = [rule(moment(i, 10, site=site, depth=8)) for i in range(10)]
        assert found == [early] * 5 + [late] * 5


def test_a_boundary_that_is_a_share_needs_the_number_of_evaluations():
    assert DeltaDitStages(3, 2)(moment(2, None, site="run:2-3")) is None
    assert DeltaDitStages(0.5, 2)(moment(2, 10, site="run:2-3")) is None
    assert DeltaDitStages(0.5, 2)(moment(2, None, site="run:2-3")) == "length"


def test_the_published_numbers_of_delta_dit_are_the_defaults_shares():
    # 28 blocks, 250 steps: 21 of them, boundary at 60.
    rule = delta_dit().rule
    for index, rear in ((59, True), (61, False)):
        asked = {s: rule(moment(index, 250, site=s, depth=28)) for s in ("run:0-6", "run:7-20", "run:21-27")}
        assert asked == {
            "run:0-6": "stage" if rear else None,
            "run:7-20": None,
            "run:21-27": None if rear else "stage",
        }
    assert rule(moment(60, 250, site="run:7-20", depth=28)) == "interval"


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 10, 19, 28, 30, 57, 60])
def test_a_share_of_the_depth_is_as_many_blocks_for_the_sites_as_for_the_rule(depth):
    structure = Structure(nn.Identity(), [nn.Identity() for _ in range(depth)])
    for share in [i / 200 for i in range(1, 200)] + [i / 7 for i in range(1, 7)] + [1 / 3, 2 / 3, 0.15 + 0.2]:
        count = share_of(share, depth)
        if count == 0:
            continue
        front, rear = delta_dit(blocks=share).sites
        (a,), (b,) = structure.select([front]), structure.select([rear])
        assert (a.first, a.last) == (0, count - 1), share
        assert (b.first, b.last) == (depth - count, depth - 1), share


def test_shares_are_floats_and_counts_are_whole_numbers():
    assert [share_of(v, 28) for v in (0.75, 0.5, 21, 1)] == [21, 14, 21, 1]


TIMES = [1000.0 - 100 * i for i in range(10)]


def test_pabs_plan_is_an_interval_per_kind_within_the_window():
    # Strictly between 100 and 850 lie evaluations 2 (800) to 8 (200). What a kind's interval has counted
    # before the window counts: evaluation 1 was computed, so 2 is predicted.
    method = pab(attn=2, cross_attn=3, mlp=None)
    plan = {s: computed_steps(method, 10, site=s, times=TIMES) for s in ("attn:0", "cross_attn:2", "mlp:1")}
    assert plan == {
        "attn:0": [0, 1, 3, 5, 7, 9],
        "cross_attn:2": [0, 1, 4, 7, 9],
        "mlp:1": list(range(10)),
    }
    nothing = pab(window=(500.0, 500.0))
    assert computed_steps(nothing, 10, site="attn:0", times=TIMES) == list(range(10))
    always = pab(window=(-1.0, 1001.0))
    assert computed_steps(always, 10, site="attn:0", times=TIMES) == [0, 2, 4, 6, 8]
    assert computed_steps(always, 13, site="cross_attn:0", times=[500.0] * 13) == [0, 6, 12]


def test_tgates_plan():
    method = tgate(gate=6, attn_interval=3, late_interval=1, warmup=2)
    plan = {s: computed_steps(method, 10, site=s) for s in ("attn:0", "cross_attn:0", "guidance")}
    assert plan == {
        "attn:0": [0, 1, 4, 6, 7, 8, 9],
        "cross_attn:0": [0, 1, 2, 3, 4, 5],
        "guidance": [0, 1, 2, 3, 4, 5],
    }
    never = tgate(gate=None, attn_interval=1)
    assert computed_steps(never, 10, site="guidance") == list(range(10))
    assert not never.predicts


def test_fastercaches_plan():
    method = fastercache()
    # Attention alternates from below 681 on (evaluation 4, timestep 600), guidance every fifth below 641.
    assert computed_steps(method, 10, site="attn:0", times=TIMES) == [0, 1, 2, 3, 5, 7, 9]
    assert computed_steps(method, 10, site="guidance", times=TIMES) == [0, 1, 2, 3, 8]
