"""Computes dealt out over sites: within the budget, equal to brute force, for the right sites."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.profile import FeatureTables, Latencies, Profile, cost
from dcache.schedulers.planners import for_speedup, make
from dcache.schedulers.planners.algorithms import pair_partition
from dcache.schedulers.planners.knapsack import levels
from dcache.schedulers.planners.pairs import errors, step_weights

T, N = 6, 20
SECONDS = {"attn:0": 0.04, "mlp:0": 0.06, "attn:1": 0.02}


def tables(seed: int, scale: float = 1.0) -> FeatureTables:
    rng = np.random.default_rng(seed)
    z = 1.0 + scale * np.cumsum(rng.standard_normal((T, N)), axis=0)
    return FeatureTables(z @ z.T / N, np.abs(z[:, None] - z[None]).mean(axis=2), np.abs(z).mean(axis=1))


def profile(scales: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Profile:
    sites = {
        site: {"0": {"value": tables(i, scale)}}
        for i, (site, scale) in enumerate(zip(SECONDS, scales, strict=True))
    }
    timed = Latencies(1.0, SECONDS, dict.fromkeys(SECONDS, 0.005))
    return Profile(T, sites, latencies=timed)


def counts(schedule) -> dict[str, int]:
    (plan,) = schedule.components.values()
    return {site: sum(row) for site, row in plan.rows["*"].items()}


@pytest.mark.parametrize("speedup", [1.1, 1.3, 1.6])
@pytest.mark.parametrize("predictor", ["fitted", "newton", "reuse"])
def test_the_budget_is_kept_and_spent_as_well_as_brute_force(speedup: float, predictor: str) -> None:
    seen = profile()
    schedule = make("knapsack", seen, speedup=speedup, predictor=predictor)
    assert cost.speedup(schedule, seen.latencies) >= speedup - 1e-9
    tabled = [
        pair_partition(errors(seen, site, predictor) * step_weights(seen, site), T).errors for site in SECONDS
    ]
    best = np.inf
    for ks in itertools.product(range(1, T + 1), repeat=3):
        saved = sum((T - k) * (SECONDS[site] - 0.005) for k, site in zip(ks, SECONDS, strict=True))
        if 1.0 / (1.0 - saved) >= speedup:
            best = min(best, sum(table[k] for table, k in zip(tabled, ks, strict=True)))
    found = sum(table[k] for table, k in zip(tabled, counts(schedule).values(), strict=True))
    # One price and a greedy rest: not the optimum itself, but near it.
    assert best - 1e-12 <= found <= 1.1 * best + 1e-12


@pytest.mark.parametrize("speedup", [1.1, 1.3, 1.6])
def test_remembering_is_paid_for(speedup: float) -> None:
    free = profile()
    assert free.latencies is not None
    # A tenth of the call in all.
    timed = replace(free.latencies, overhead=dict.fromkeys(SECONDS, 0.1 / 3))
    seen = replace(free, latencies=timed)
    assert cost.speedup(make("knapsack", seen, speedup=speedup), timed) >= speedup - 1e-9
    most = max(level["speedup"] for level in levels(seen))
    assert cost.speedup(make("knapsack", seen, speedup=most), timed) >= most - 1e-9
    assert most < max(level["speedup"] for level in levels(free))


def test_what_does_not_change_is_computed_once() -> None:
    found = counts(make("knapsack", profile((0.0, 1.0, 1.0)), speedup=1.25))
    assert found["attn:0"] == 1
    assert min(found["mlp:0"], found["attn:1"]) > 1


def test_every_site_has_weights_of_its_own() -> None:
    (plan,) = make("knapsack", profile(), speedup=1.4).components.values()
    assert set(plan.parameters["weights"]) == set(SECONDS)
    for site, rows in plan.parameters["weights"].items():
        row = plan.rows["*"][site]
        assert {int(t) for t in rows} == {t for t, computed in enumerate(row) if not computed}


def test_for_a_speedup_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from dcache.schedulers.planners import knapsack

    asked: list[float] = []
    real = knapsack.plan

    def plan(profile, speedup=1.5, predictor="fitted"):
        asked.append(speedup)
        return real(profile, speedup, predictor)

    monkeypatch.setattr(knapsack, "plan", plan)
    found = for_speedup(profile(), "knapsack", 1.37, predictor="reuse")
    assert asked == [1.37]
    assert cost.speedup(found, profile().latencies) >= 1.37


def test_levels_end_where_one_compute_of_each_site_does() -> None:
    listed = [level["speedup"] for level in levels(profile())]
    most = 1.0 / (1.0 - 5 * (sum(SECONDS.values()) - 3 * 0.005))
    assert listed[0] == 1.05
    assert most - 0.06 < listed[-1] <= most
    assert counts(make("knapsack", profile(), speedup=listed[-1], predictor="reuse")) is not None


def test_blocks_stand_in_for_sublayers() -> None:
    seen = profile()
    blocks = {f"block:{i}": {"0": {"value": t, "delta": t}} for i, t in enumerate((tables(5), tables(6)))}
    timed = Latencies(1.0, dict.fromkeys(blocks, 0.05), dict.fromkeys(blocks, 0.0))
    only = replace(seen, sites=blocks, latencies=timed)
    assert set(counts(make("knapsack", only, speedup=1.3))) == set(blocks)
    both = replace(seen, sites={**seen.sites, **blocks})
    assert set(counts(make("knapsack", both, speedup=1.3))) == set(SECONDS)
    assert set(counts(make("knapsack", both, speedup=1.1, kinds=("attn",)))) == {"attn:0", "attn:1"}


@pytest.mark.parametrize(
    ("changed", "options", "expected"),
    [
        ({}, {"speedup": 9.0}, r"3 sites reach a speedup of 2\.11 with one compute of each"),
        ({}, {"speedup": 0.5}, "speedup"),
        ({}, {"kinds": ("fused",)}, "knapsack plans for fused"),
        ({"latencies": None}, {}, "needs measured latencies"),
        ({"latencies": Latencies(1.0, {"attn:0": 0.1}, {})}, {}, "has none of mlp:0, attn:1"),
    ],
)
def test_what_cannot_be_planned_is_refused(changed: dict, options: dict, expected: str) -> None:
    with pytest.raises(DcacheError, match=expected):
        make("knapsack", replace(profile(), **changed), **options)


def test_the_module_is_found_by_its_name() -> None:
    from dcache.schedulers import planners as plans

    for name in ("knapsack", "pairs"):
        assert name in plans.PLANNERS
        assert (Path(plans.__file__).parent / f"{name}.py").exists()
