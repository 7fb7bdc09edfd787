"""Ours: one site's computes placed by dynamic programming over the last two anchors, with their own error.

A prediction from two anchors has an error that follows from the Gram matrix for every pair of anchors
(`planners.gram`), so the best places for any number of computes are found exactly. What an error
at an evaluation means for the final picture is its weight: from observed importance where the profile has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.identity.run import Run
from dcache.predictors.fitted import EVERYWHERE, as_json
from dcache.profile import Floats, Profile
from dcache.schedule import Schedule
from dcache.schedulers.planners.algorithms import pair_partition
from dcache.schedulers.planners.gram import RIDGE, line_slopes, slope_errors, slopes, table
from dcache.schedulers.planners.registry import scheduled
from dcache.util.checks import check_whole

PREDICTORS = ("fitted", "newton", "taylor", "reuse")
IMPORTANCES = ("auto", "observed", "power", "none")
_TINY = np.finfo(np.float64).tiny


def plan(
    profile: Profile,
    computes: int | None = None,
    predictor: str = "fitted",
    importance: str = "power",
    site: str | None = None,
    ridge: float = RIDGE,
    forced: Sequence[int] = (),
) -> Schedule:
    """The places with the least sum of weighted squared errors, and the weights of the predictions.

    Args:
        profile: with the site.
        computes: how many evaluations are computed; None is a third of them.
        predictor: `fitted`; a line: `newton` (on log-SNR where the profile tells noise levels) or `taylor`
            (on the step); or `reuse`.
        importance: weights of the evaluations, as in `step_weights`.
        site: None for the whole: trunk, outermost bracket or model.
        ridge: as in `dcache.schedulers.planners.gram`.
        forced: evaluations that are computed in any case, beside the first.

    Raises:
        DcacheError: the site was not observed, or there are no such plans.
    """
    computes = max(profile.steps // 3, 1) if computes is None else computes
    check_whole("computes", computes, 1)
    if computes > profile.steps or any(t not in range(profile.steps) for t in forced):
        raise DcacheError(
            f"{computes} computes, {list(forced)} among them, do not fit {profile.steps} evaluations"
        )
    site = profile.whole_site if site is None else site
    weighted = errors(profile, site, predictor, ridge) * step_weights(profile, site, importance)
    anchors = pair_partition(weighted, computes, forced).anchors(computes)
    return scheduled(
        profile, "pairs", {site: anchors}, **how(profile, {site: anchors}, predictor, ridge=ridge)
    )


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """From one evaluation predicted to one computed."""
    yield from ({"computes": k} for k in range(profile.steps - 1, 0, -1))


def errors(profile: Profile, site: str, predictor: str, ridge: float = RIDGE) -> Floats:
    """(T, T, T), `[a, b, t]`: the mean squared error at t of a predictor from the anchors a and b.

    Raises:
        DcacheError: the predictor is none of these, or the site was not observed.
    """
    gram = profile.tables(site).gram
    if predictor == "fitted":
        return slope_errors(gram, slopes(gram, ridge))
    if predictor == "newton":
        return slope_errors(gram, line_slopes(clock_values(profile)[1]))
    if predictor == "taylor":
        return slope_errors(gram, line_slopes(range(len(gram))))
    if predictor == "reuse":
        return slope_errors(gram, np.zeros((len(gram),) * 3))
    raise DcacheError(f"predictor must be one of {', '.join(PREDICTORS)}, got {predictor!r}")


def step_weights(profile: Profile, site: str, importance: str = "auto") -> Floats:
    """(T,): what a squared error of the site's features at each evaluation counts.

    `observed`: the final pictures' squared error when that evaluation alone was predicted by reuse, over the
    squared error of that reuse. It says little of errors in a row, which add up, and under guidance it did
    harm where it was measured (docs/predictors.md). `power`: one over the mean square of the features, so
    that errors are relative. `none`: one. `auto`: observed where the profile has it; else that of the whole,
    for the same relative error; else power.

    Raises:
        DcacheError: the profile has no importance of the site, or the kind is none of these.
    """
    if importance not in IMPORTANCES:
        raise DcacheError(f"importance must be one of {', '.join(IMPORTANCES)}, got {importance!r}")
    power = np.maximum(np.diag(profile.tables(site).gram), _TINY)
    seen = _seen(profile, site)
    if importance == "observed" and seen is None:
        raise DcacheError(
            f"the profile has no observed importance of {site!r}: it has that of "
            f"{', '.join(profile.important) or 'nothing'}. Observe with --importance"
        )
    if importance == "none":
        return np.ones(profile.steps)
    if importance == "power":
        return 1.0 / power
    if seen is not None:
        return seen
    whole = profile.whole_site if profile.important else site
    of_all = _seen(profile, whole)
    return 1.0 / power if of_all is None else of_all * np.diag(profile.tables(whole).gram) / power


def how(
    profile: Profile,
    rows: dict[str, tuple[int, ...]],
    predictor: str,
    order: int = 1,
    ridge: float = RIDGE,
) -> dict[str, Any]:
    """The rest of a schedule's plan for these computed evaluations: predictor, parameters and clock."""
    if predictor == "newton":
        return {"predictor": "newton", "parameters": {"order": order}, "clock": clock_values(profile)[0]}
    if predictor == "taylor":
        return {"predictor": "taylor", "parameters": {"order": order}, "clock": "step"}
    if predictor == "reuse":
        return {"predictor": "reuse", "clock": "step"}
    tables = {site: table(profile.tables(site).gram, row, order, ridge) for site, row in rows.items()}
    if len(tables) == 1:
        tables = {EVERYWHERE: next(iter(tables.values()))}
    return {"predictor": "fitted", "parameters": {"weights": as_json(tables)}, "clock": "step"}


def clock_values(profile: Profile) -> tuple[str, Floats]:
    """The clock that `newton` runs on, and its value at every evaluation: log-SNR where it is known."""
    sigmas = profile.sigmas[: profile.steps]
    if len(sigmas) < profile.steps:
        return "step", np.arange(profile.steps, dtype=np.float64)
    # Noise levels of flow matching are shares of one; others begin far above.
    run = Run(sigmas=sigmas, flow=max(sigmas) <= 1.0)
    found = []
    for run.index in range(profile.steps):
        found.append(run.clock("logsnr"))
    return "logsnr", np.asarray(found)


def _seen(profile: Profile, site: str) -> Floats | None:
    """Observed importance for each unit of the error that was seen; gaps are filled from neighbours.

    Raises:
        DcacheError: it was observed and says nothing.
    """
    if profile.importance is None or site not in profile.important:
        return None
    seen = profile.importance[profile.important.index(site)]
    squared = profile.tables(site).squared
    reuse = np.append(squared[0, 0], np.diag(squared, 1))
    known = np.flatnonzero(np.isfinite(seen) & (seen > 0) & (reuse > 0))
    if not len(known):
        raise DcacheError(
            f"the profile's importance of {site!r} says nothing: observe it again, or use importance='power'"
        )
    filled: Floats = np.exp(np.interp(np.arange(len(seen)), known, np.log(seen[known] / reuse[known])))
    return filled
