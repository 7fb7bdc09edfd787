"""The fitted predictor: weights over the last anchors from a table, one row for each predicted evaluation.

For a guided batch there may be two tables: one for the mean of its two halves, one for their difference,
which guidance magnifies (`dcache.predictors.guided_pair`).

Each row names its anchors. It is used only if the run has these anchors; after a reset in the middle of a run
it may have others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from dcache.errors import DcacheError

Row = Mapping[int, float]
EVERYWHERE = "*"
# Larger weights would magnify rounding errors, and any difference from the runs that were observed.
LARGEST = 100.0


@dataclass(frozen=True)
class Fitted:
    """Weights by site and evaluation, made by `dcache calibrate`; needs the clock `step`.

    Args:
        weights: site -> evaluation -> {evaluation of an anchor: its weight}; the site `*` stands for all
            sites that are not listed. Keys may be text, as in JSON. The weights of a row sum to one.
        difference_weights: the same for the difference of the two halves of a guided batch; `weights` are
            then those of their mean. Without a row, or if the batch is not guided, `weights` are used for
            both.

    Attributes:
        mean_table: `weights`, with whole numbers for keys.
        difference_table: `difference_weights`, the same; empty if there are none.

    Raises:
        DcacheError: a row is empty, its weights are not finite or do not sum to one, or an anchor does not
            come before the evaluation.
    """

    mean_table: Mapping[str, Mapping[int, Row]]
    difference_table: Mapping[str, Mapping[int, Row]]
    order: int = field(init=False)
    name: str = field(default="fitted", init=False)
    forecasts: bool = field(default=False, init=False)
    tabulated: bool = field(default=True, init=False)

    def __init__(
        self,
        weights: Mapping[str, Mapping[Any, Mapping[Any, float]]],
        difference_weights: Mapping[str, Mapping[Any, Mapping[Any, float]]] | None = None,
    ) -> None:
        tables = (_checked(weights), _checked({} if difference_weights is None else difference_weights))
        object.__setattr__(self, "mean_table", tables[0])
        object.__setattr__(self, "difference_table", tables[1])
        lengths = [len(row) for table in tables for rows in table.values() for row in rows.values()]
        object.__setattr__(self, "order", max(lengths, default=1) - 1)

    @classmethod
    def from_parameters(cls, weights: Any, apart: Any = None) -> Fitted:
        """The predictor of a schedule file's parameters, in which `apart` is the table of the difference.

        Raises:
            DcacheError: as the constructor.
        """
        return cls(weights, apart)

    def at(self, site: str) -> Fitted:
        """The predictor of one site: its rows, else those of `*`."""
        tables = (self.mean_table, self.difference_table)
        mean, difference = (table.get(site, table.get(EVERYWHERE, {})) for table in tables)
        return Fitted({EVERYWHERE: mean}, {EVERYWHERE: difference} if difference else None)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """The row of evaluation `tau`; reuse of the newest anchor if there is no row for these anchors."""
        return _row(self.mean_table, steps, tau) or [0.0] * (len(taus) - 1) + [1.0]

    @property
    def pairs_halves(self) -> bool:
        """True if the difference of the two halves of a guided batch has separate rows."""
        return bool(self.difference_table)

    def difference_weights(
        self, taus: Sequence[float], steps: Sequence[int], tau: float
    ) -> list[float] | None:
        """The row of evaluation `tau` for the difference of the halves; None if it has the mean's weights."""
        return _row(self.difference_table, steps, tau)

    def lowered(self, order: int) -> Fitted | None:
        """The predictor with its rows of at most `order + 1` anchors; None for order 0, which is reuse."""
        if order <= 0:
            return None
        return Fitted(*(
            {s: {t: r for t, r in rows.items() if len(r) <= order + 1} for s, rows in table.items()}
            for table in (self.mean_table, self.difference_table)
        ))  # fmt: skip

    def parameters(self) -> dict[str, Any]:
        """The tables as JSON values: `weights`, and `apart` for the difference if it has a table."""
        parameters = {"weights": as_json(self.mean_table)}
        if self.difference_table:
            parameters["apart"] = as_json(self.difference_table)
        return parameters


def _row(table: Mapping[str, Mapping[int, Row]], steps: Sequence[int], tau: float) -> list[float] | None:
    """The weights of evaluation `tau`, one per anchor; None if there is no row for these anchors."""
    row = table.get(EVERYWHERE, {}).get(round(tau), {})
    if row and max(row) == steps[-1] and set(row) <= set(steps):
        return [row.get(step, 0.0) for step in steps]
    return None


def as_json(table: Mapping[str, Mapping[int, Row]]) -> dict[str, dict[str, dict[str, float]]]:
    """A table of weights with text keys, as in a schedule's parameters."""
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
