"""`Predictor`, the protocol that the engine uses, and a base of predictors that are equal at every site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from dcache.errors import DcacheError
from dcache.util.checks import is_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_ORDER = 6


class Predictor(Protocol):
    """Weights over the last anchors; immutable."""

    @property
    def name(self) -> str:
        """Registry name, as written into a schedule."""
        ...

    @property
    def order(self) -> int:
        """Highest order; `order + 1` anchors are read."""
        ...

    @property
    def forecasts(self) -> bool:
        """True if it also reads the last entry before the newest anchor, whose weight comes last."""
        ...

    @property
    def tabulated(self) -> bool:
        """True if its weights are listed by site and evaluation; then the clock must be `step`."""
        ...

    @property
    def pairs_halves(self) -> bool:
        """True if the difference of the two halves of a guided batch has separate weights."""
        ...

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """One weight per anchor.

        Args:
            taus: clock values of the anchors, oldest first.
            steps: evaluation indices of the same anchors.
            tau: clock value of the current evaluation.
        """
        ...

    def difference_weights(
        self, taus: Sequence[float], steps: Sequence[int], tau: float
    ) -> list[float] | None:
        """Weights of the difference of the two halves of a guided batch; None if they equal `weights`."""
        ...

    def lowered(self, order: int) -> Predictor | None:
        """The same predictor with at most `order + 1` anchors; None if its only lower order is reuse."""
        ...

    def parameters(self) -> dict[str, Any]:
        """The parameters with which `make` builds an equal predictor, as JSON values."""
        ...

    def at(self, site: str) -> Predictor:
        """The predictor of one site, by the site's name."""
        ...


class SiteIndependent:
    """Base of predictors with the same weights at every site; a subclass is a frozen dataclass."""

    tabulated = False
    pairs_halves = False

    def at(self, site: str) -> Self:
        """The predictor itself."""
        return self

    def difference_weights(
        self, taus: Sequence[float], steps: Sequence[int], tau: float
    ) -> list[float] | None:
        """None: the difference of the halves of a guided batch has the same weights as their mean."""
        return None

    def lowered(self, order: int) -> Self | None:
        """The predictor with another `order`; None if `order` is no argument of its constructor."""
        predictor = cast("DataclassInstance", self)
        if not any(f.name == "order" and f.init for f in fields(predictor)):
            return None
        return cast("Self", replace(predictor, order=order))


def check_order(order: int, name: str = "order") -> None:
    """Check an order, the option `name`.

    Raises:
        DcacheError: it is not a whole number from 0 to `MAX_ORDER`.
    """
    if not is_whole(order) or not 0 <= order <= MAX_ORDER:
        raise DcacheError(f"{name} must be a whole number from 0 to {MAX_ORDER}, got {order!r}")
