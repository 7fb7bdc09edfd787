"""The cost of a schedule from measured seconds. Operation counts mislead, since a prediction is not free.

    seconds = uncached + sum over sites of the overhead of caching them
              - sum over predicted events of (seconds to compute the site - seconds to predict it)

Events inside a predicted site do not happen. The canonical form is priced, so dead computes cost nothing. A
run of blocks that was not timed costs the sum of its blocks to compute, and as much as one block to predict.
"""

from __future__ import annotations

from collections.abc import Mapping

from dcache.errors import DcacheError
from dcache.profile.latencies import Latencies
from dcache.schedule import Schedule
from dcache.schedule.liveness import Row, executed
from dcache.sites.names import SITE_NAME


def seconds(schedule: Schedule, latencies: Latencies) -> float:
    """Seconds of a whole call under a schedule of one denoiser.

    Raises:
        DcacheError: the schedule has several denoisers, or a site that was not timed.
    """
    saved = _saved(schedule, latencies.computed, latencies.predicted)
    sites = {site for plan in schedule.components.values() for site in plan.sites}
    parts = [part for site in sites for part in _parts(site, latencies.computed)]
    return latencies.uncached + sum(latencies.overhead.get(part, 0.0) for part in parts) - saved


def speedup(schedule: Schedule, latencies: Latencies) -> float:
    """Seconds of a whole call without caching over seconds with the schedule.

    Raises:
        DcacheError: as `seconds`.
    """
    return latencies.uncached / max(seconds(schedule, latencies), 1e-12)


def flops(schedule: Schedule, latencies: Latencies) -> float:
    """Share of the sites' floating-point operations that the schedule computes; 1 if none were counted.

    Raises:
        DcacheError: as `seconds`.
    """
    nothing = dict.fromkeys(latencies.flops, 0.0)
    outermost = _outermost(schedule)
    known = latencies.flops
    total = schedule.steps * sum(_priced(site, known, nothing)[0] for site in outermost if known)
    return 1.0 - _saved(schedule, latencies.flops, nothing) / total if total else 1.0


def _saved(schedule: Schedule, computed: Mapping[str, float], predicted: Mapping[str, float]) -> float:
    plans = list(schedule.canonical().components.values())
    if len(plans) != 1:
        raise DcacheError(f"a schedule of one denoiser can be priced: this one has {len(plans)}")
    rows = plans[0].rows
    prices = {site: _priced(site, computed, predicted) for site in plans[0].sites}
    return sum(
        (prices[site][0] - prices[site][1]) / len(rows)
        for sites in rows.values()
        for _, site in _predicted(sites)
    )


def _priced(site: str, computed: Mapping[str, float], predicted: Mapping[str, float]) -> tuple[float, float]:
    """Costs of computing a site and of predicting it; a run that was not timed is predicted like a block."""
    parts = _parts(site, computed)
    missing = [part for part in parts if part not in computed or part not in predicted]
    if missing:
        raise DcacheError(f"{', '.join(missing)} was not timed: only {', '.join(computed)}")
    return sum(computed[part] for part in parts), predicted[parts[0]]


def _parts(site: str, timed: Mapping[str, float]) -> list[str]:
    """The site itself, or the blocks of a run that was not timed."""
    match = SITE_NAME.fullmatch(site)
    if site in timed or match is None or match["first"] is None:
        return [site]
    return [f"block:{i}" for i in range(int(match["first"]), int(match["last"]) + 1)]


def _predicted(rows: Mapping[str, Row]) -> set[tuple[int, str]]:
    """The events that are predicted, without those inside a predicted site."""
    ran, outer = executed(rows)
    return {
        (t, site)
        for site, row in rows.items()
        for t in range(len(row))
        if (t, site) not in ran and all((t, o) in ran for o in outer[site])
    }


def _outermost(schedule: Schedule) -> list[str]:
    (plan,) = schedule.components.values()
    _, outer = executed(next(iter(plan.rows.values())))
    return [site for site in plan.sites if not outer[site]]
