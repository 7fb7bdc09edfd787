"""Ours: the computes of one site, placed by dynamic programming over the last two anchors.

The Gram matrix gives the error of a prediction from any two anchors (`planners.gram`), so the best
evaluations for any number of computes are found exactly. The error of each evaluation is weighted by its
effect on the final picture, as `step_weights` estimates it.
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
    """The computed evaluations with the least sum of weighted squared errors, and the predictor.

    Args:
        profile: with the site.
        computes: number of computed evaluations; None is a third of all.
        predictor: "fitted"; a line, "newton" (on log-SNR if the profile has noise levels) or "taylor" (on the
            step); or "reuse".
        importance: weights of the evaluations, as in `step_weights`.
        site: the site; None for the profile's `whole_site`.
        ridge: as in `dcache.schedulers.planners.gram`.
        forced: evaluations that are always computed, besides the first.

    Raises:
        DcacheError: the site was not observed, or there is no such plan.
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
        profile, "pairs", {site: anchors}, **plan_terms(profile, {site: anchors}, predictor, ridge=ridge)
    )


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Computes, descending from all evaluations but one to 1."""
    yield from ({"computes": k} for k in range(profile.steps - 1, 0, -1))


def errors(profile: Profile, site: str, predictor: str, ridge: float = RIDGE) -> Floats:
    """(T, T, T), `[a, b, t]`: the mean squared error at t of a predictor with the anchors a and b.

    Raises:
        DcacheError: the predictor is not one of `PREDICTORS`, or the site was not observed.
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
    raise _unknown(predictor)


def _unknown(predictor: str) -> DcacheError:
    return DcacheError(f"predictor must be one of {', '.join(PREDICTORS)}, got {predictor!r}")


def step_weights(profile: Profile, site: str, importance: str = "auto") -> Floats:
    """(T,): the weight of the squared error of a site's features at each evaluation.

    - "observed": the final pictures' squared error when that evaluation alone was predicted by reuse, over
      the squared error of that reuse. It ignores that errors in a row add up; measured under guidance it gave
      worse plans (docs/predictors.md).
    - "power": one over the mean square of the features, so that errors are relative.
    - "none": one.
    - "auto": "observed" if the profile has it; else the observed importance of the largest site, for the same
      relative error; else "power".

    Raises:
        DcacheError: the profile has no importance of the site, or `importance` is not one of `IMPORTANCES`.
    """
    if importance not in IMPORTANCES:
        raise DcacheError(f"importance must be one of {', '.join(IMPORTANCES)}, got {importance!r}")
    power = np.maximum(np.diag(profile.tables(site).gram), _TINY)
    observed = _observed_importance(profile, site)
    if importance == "observed" and observed is None:
        raise DcacheError(
            f"the profile has no observed importance of {site!r}: it has that of "
            f"{', '.join(profile.important) or 'nothing'}. Observe with --importance"
        )
    if importance == "none":
        return np.ones(profile.steps)
    if importance == "power":
        return 1.0 / power
    if observed is not None:
        return observed
    largest = profile.whole_site if profile.important else site
    of_largest = _observed_importance(profile, largest)
    return 1.0 / power if of_largest is None else of_largest * np.diag(profile.tables(largest).gram) / power


def plan_terms(
    profile: Profile,
    rows: dict[str, tuple[int, ...]],
    predictor: str,
    order: int = 1,
    ridge: float = RIDGE,
) -> dict[str, Any]:
    """The fields predictor, parameters and clock of a `Plan` with these rows.

    Args:
        profile: the profile.
        rows: site -> computed evaluations.
        predictor: one of `PREDICTORS`.
        order: the predictor's order.
        ridge: as in `dcache.schedulers.planners.gram`.

    Raises:
        DcacheError: the predictor is not one of `PREDICTORS`.
    """
    if predictor not in PREDICTORS:
        raise _unknown(predictor)
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
    """The clock of `newton`, log-SNR if the noise levels are known, else the step; and its values, (T,)."""
    sigmas = profile.sigmas[: profile.steps]
    if len(sigmas) < profile.steps:
        return "step", np.arange(profile.steps, dtype=np.float64)
    # Noise levels of flow matching are at most 1; those of other samplers start far above.
    run = Run(sigmas=sigmas, flow=max(sigmas) <= 1.0)
    taus = []
    for run.index in range(profile.steps):
        taus.append(run.clock("logsnr"))
    return "logsnr", np.asarray(taus)


def _observed_importance(profile: Profile, site: str) -> Floats | None:
    """(T,): the pictures' error per unit of the site's squared error; gaps are interpolated.

    None if the profile has no importance of the site.

    Raises:
        DcacheError: no entry of the importance is usable.
    """
    if profile.importance is None or site not in profile.important:
        return None
    pictures = profile.importance[profile.important.index(site)]
    squared = profile.tables(site).squared
    reuse = np.append(squared[0, 0], np.diag(squared, 1))
    known = np.flatnonzero(np.isfinite(pictures) & (pictures > 0) & (reuse > 0))
    if not len(known):
        raise DcacheError(
            f"the profile's importance of {site!r} has no finite entry above 0: observe it again, or use "
            "importance='power'"
        )
    ratio = np.log(pictures[known] / reuse[known])
    filled: Floats = np.exp(np.interp(np.arange(len(pictures)), known, ratio))
    return filled
