"""The guided line: a line through two anchors, flatter for the difference of a guided batch's halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dcache.predictors.base import SiteIndependent
from dcache.predictors.polynomial import Newton
from dcache.util.checks import check_number

_LINE = Newton(1)


@dataclass(frozen=True)
class GuidedLine(SiteIndependent):
    """The line through the last two anchors; in a guided batch the difference follows a share of its slope.

    Guidance magnifies an error of the difference of the conditional and the unconditional half, but not one
    of their mean (`dcache.predictors.guided_pair`), and the difference is the noisier of the two. So the mean
    follows the whole line, and the difference stays near its newest anchor. Ours; docs/predictors.md.

    Args:
        difference: share of the line's slope for the difference, from 0 (reuse) to 1 (the same line).

    Raises:
        DcacheError: the share is not a number of at least 0.
    """

    difference: float = 0.25
    name: str = field(default="guided_line", init=False)
    order: int = field(default=1, init=False)
    forecasts: bool = field(default=False, init=False)
    pairs_halves = True

    def __post_init__(self) -> None:
        check_number("difference", self.difference, 0.0)

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """The line's weights of all anchors; 1 with one anchor."""
        return _LINE.weights(taus, steps, tau)

    def difference_weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """Reuse of the newest anchor, plus the share of what the line adds to it."""
        line = _LINE.weights(taus, steps, tau)
        return [self.difference * w for w in line[:-1]] + [1.0 + self.difference * (line[-1] - 1.0)]

    def parameters(self) -> dict[str, Any]:
        """The share."""
        return {"difference": self.difference}
