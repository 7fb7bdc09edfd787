"""What the engine needs of a predictor, and the base of predictors that are the same at every site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from dcache.errors import DcacheError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_ORDER = 6


class Predictor(Protocol):
    """Weights over the last anchors; every predictor is immutable."""

    @property
    def name(self) -> str:
        """Registry name, as written into a schedule."""
        ...

    @property
    def order(self) -> int:
        """Highest order; `order + 1` anchors are kept."""
        ...

    @property
    def forecasts(self) -> bool:
        """Whether it also reads the last entry before the newest anchor; that one's weight comes last."""
        ...

    @property
    def tabulated(self) -> bool:
        """Whether its weights are listed by site and evaluation: it goes with the clock `step` alone."""
        ...

    @property
    def pairs_halves(self) -> bool:
        """Whether it has weights of their own for the difference between a guided batch's halves."""
        ...

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """One weight per anchor.

        Args:
            taus: clock values of the anchors, oldest first.
            steps: evaluation indices of the same anchors.
            tau: the clock value to predict at.
        """
        ...

    def difference_weights(self, steps: Sequence[int], tau: float) -> list[float] | None:
        """The weights of the difference between a guided batch's halves; None where they are `weights`."""
        ...

    def lowered(self, order: int) -> Predictor | None:
        """The same predictor with at most `order + 1` anchors; None where it has no lower order but reuse."""
        ...

    def parameters(self) -> dict[str, Any]:
        """What `make` needs beside the name to build an equal predictor."""
        ...

    def at(self, site: str) -> Predictor:
        """The predictor of one site, by its name."""
        ...


class SiteIndependent:
    """Base of predictors that are the same at every site; a subclass is a frozen dataclass."""

    tabulated = False
    pairs_halves = False

    def at(self, site: str) -> Self:
        """Itself."""
        return self

    def difference_weights(self, steps: Sequence[int], tau: float) -> list[float] | None:
        """None: the difference between halves is predicted as their mean is."""
        return None

    def lowered(self, order: int) -> Self | None:
        """The same with a lower `order`, where that is a field that it is made with; else None."""
        itself = cast("DataclassInstance", self)
        if not any(f.name == "order" and f.init for f in fields(itself)):
            return None
        return cast("Self", replace(itself, order=order))


def check_order(order: int, name: str = "order") -> None:
    """Raise unless `order` is a whole number from 0 to `MAX_ORDER`; `name` is the option's."""
    if not isinstance(order, int) or isinstance(order, bool) or not 0 <= order <= MAX_ORDER:
        raise DcacheError(f"{name} must be a whole number from 0 to {MAX_ORDER}, got {order!r}")
