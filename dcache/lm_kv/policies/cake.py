"""CAKE."""

from __future__ import annotations

from dcache.errors import DcacheError
from dcache.lm_kv.options import Allocation
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import preset
from dcache.lm_kv.scoring.observers import QueryWindow
from dcache.lm_kv.scoring.preference import DispersionAndShift
from dcache.lm_kv.scoring.window_scorers import MeanAndVariance
from dcache.util.checks import check_number, check_odd, check_whole, is_number


@preset
def cake(
    budget: float | None = None,
    window: int = 32,
    gamma: float = 200.0,
    pool: int = 5,
    tau1: float = 1.0,
    tau2: float = 1.0,
    allocation: Allocation = "preference",
    every: int = 0,
) -> Policy:
    """Give layers what their attention asks for, keep what is attended to or varies (Qin et al. 2025, CAKE).

    Score: mean_q A[q, k] + gamma var_q A[q, k] over the window's queries, smoothed. A layer's share of the
    budget is in proportion to H^(1/tau1) V^(1/tau2), the entropy and the variance of its attention.

    Args:
        budget: as in `Policy`.
        window: queries that vote, and newest tokens kept; at least 2.
        gamma: weight of the variance; at least 0.
        pool: width of the moving average, odd; 1 where facts are single tokens.
        tau1: the larger, the less the entropy counts; above 0.
        tau2: the same for the variance.
        allocation: "preference" as published.
        every: decoded tokens between evictions; 0 evicts after prompts alone, as published.
    """
    check_whole("window", window, 2)
    check_odd("pool", pool)
    check_number("gamma", gamma, 0)
    if not all(is_number(tau) and tau > 0.0 for tau in (tau1, tau2)):
        raise DcacheError(f"tau1 and tau2 must be numbers above 0, got {tau1!r} and {tau2!r}")
    return Policy(
        scorer=MeanAndVariance(gamma, pool),
        observer=QueryWindow(window),
        preference=DispersionAndShift(tau1, tau2),
        budget=budget,
        sinks=0,
        window=window,
        allocation=allocation,
        every=every,
    )
