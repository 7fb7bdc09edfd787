"""The fitted predictor: weights over the last anchors from a table, one row for each predicted evaluation.

Where guidance makes one batch of both branches, its halves can be carried apart: their mean by one table, the
difference between them, which guidance magnifies, by another (`dcache.predictors.guided_pair`).

A table belongs to the places of its anchors: each row names them, and a row whose anchors are not those that
the run has (it started afresh in the middle) is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from dcache.errors import DcacheError

Row = Mapping[int, float]
EVERYWHERE = "*"
# Weights beyond this magnify rounding and everything that was not seen when they were fitted.
LARGEST = 100.0


@dataclass(frozen=True)
class Fitted:
    """Weights by site and evaluation, made by `dcache calibrate`; needs the clock `step`.

    Args:
        weights: site -> evaluation -> {evaluation of an anchor: its weight}; the site `*` stands for all that
            have no rows of their own. Keys may be text, as JSON has them. The weights of a row sum to one.
        apart: the same for the difference between the halves of a guided batch; `weights` are then those of
            their mean. Where there is no row, or the halves are no branches, `weights` are for both.

    Raises:
        DcacheError: a row is empty, its weights are no finite numbers or do not sum to one, or an anchor does
            not come before the evaluation.
    """

    table: Mapping[str, Mapping[int, Row]]
    differences: Mapping[str, Mapping[int, Row]]
    order: int = field(init=False)
    name: str = field(default="fitted", init=False)
    forecasts: bool = field(default=False, init=False)
    tabulated: bool = field(default=True, init=False)

    def __init__(
        self,
        weights: Mapping[str, Mapping[Any, Mapping[Any, float]]],
        apart: Mapping[str, Mapping[Any, Mapping[Any, float]]] | None = None,
    ) -> None:
        table, differences = _checked(weights), _checked({} if apart is None else apart)
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "differences", differences)
        every = [row for one in (table, differences) for rows in one.values() for row in rows.values()]
        longest = max(map(len, every), default=1)
        object.__setattr__(self, "order", longest - 1)

    def at(self, site: str) -> Fitted:
        """The predictor of one site."""
        rows, apart = (t.get(site, t.get(EVERYWHERE, {})) for t in (self.table, self.differences))
        return Fitted({EVERYWHERE: rows}, {EVERYWHERE: apart} if apart else None)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """The row of evaluation `tau`; the newest anchor as it is where there is none for these anchors."""
        return _row(self.table, steps, tau) or [0.0] * (len(taus) - 1) + [1.0]

    @property
    def pairs_halves(self) -> bool:
        """Whether the difference between a guided batch's halves has rows of its own."""
        return bool(self.differences)

    def difference_weights(self, steps: Sequence[int], tau: float) -> list[float] | None:
        """The weights of the difference between a guided batch's halves, None where they are `weights`."""
        return _row(self.differences, steps, tau)

    def lowered(self, order: int) -> Fitted | None:
        """The rows that have at most `order + 1` anchors; None for order 0, which is reuse."""
        if order <= 0:
            return None
        return Fitted(*(
            {s: {t: r for t, r in rows.items() if len(r) <= order + 1} for s, rows in table.items()}
            for table in (self.table, self.differences)
        ))  # fmt: skip

    def parameters(self) -> dict[str, Any]:
        """The tables, as JSON has them."""
        found = {"weights": as_json(self.table)}
        return {**found, "apart": as_json(self.differences)} if self.differences else found


def _row(table: Mapping[str, Mapping[int, Row]], steps: Sequence[int], tau: float) -> list[float] | None:
    """The row of evaluation `tau`, None where there is none for these anchors."""
    row = table.get(EVERYWHERE, {}).get(round(tau), {})
    if row and max(row) == steps[-1] and set(row) <= set(steps):
        return [row.get(step, 0.0) for step in steps]
    return None


def as_json(table: Mapping[str, Mapping[int, Row]]) -> dict[str, dict[str, dict[str, float]]]:
    """A table of weights with text for keys, as a schedule's parameters have it."""
    return {
        site: {str(t): {str(a): w for a, w in row.items()} for t, row in rows.items()}
        for site, rows in table.items()
    }


def _checked(weights: Any) -> dict[str, dict[int, dict[int, float]]]:
    try:
        table = {
            str(site): {int(t): {int(a): float(w) for a, w in row.items()} for t, row in rows.items()}
            for site, rows in weights.items()
        }
    except (AttributeError, TypeError, ValueError):
        raise DcacheError(
            "fitted weights must be {site: {evaluation: {evaluation of an anchor: weight}}}, got "
            f"{str(weights)[:80]}"
        ) from None
    for site, rows in table.items():
        for t, row in rows.items():
            where = f"fitted weights of {site!r} at evaluation {t}"
            if not row or not all(0 <= anchor < t for anchor in row):
                raise DcacheError(f"{where} must be of anchors before it, got {row}")
            if not all(isfinite(w) and abs(w) <= LARGEST for w in row.values()):
                raise DcacheError(f"{where} must be numbers between -{LARGEST:g} and {LARGEST:g}, got {row}")
            if abs(sum(row.values()) - 1.0) > 1e-3:
                raise DcacheError(f"{where} must sum to one, got {sum(row.values()):.4g} of {row}")
    return table
