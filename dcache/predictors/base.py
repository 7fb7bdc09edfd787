"""What the engine needs of a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

from dcache.errors import DcacheError

MAX_ORDER = 6


class Predictor(Protocol):
    """What the session needs of a predictor."""

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

    def weights(self, taus: Sequence[float], steps: Sequence[int], tau: float) -> list[float]:
        """One weight per anchor.

        Args:
            taus: clock values of the anchors, oldest first.
            steps: evaluation indices of the same anchors.
            tau: the clock value to predict at.
        """
        ...

    def parameters(self) -> dict[str, Any]:
        """What `make` needs beside the name to build an equal predictor."""
        ...

    def at(self, site: str) -> Predictor:
        """The predictor of one site, by its name."""
        ...


class Everywhere:
    """A predictor that is the same at every site."""

    def at(self, site: str) -> Self:
        """Itself."""
        return self


def check_order(order: int) -> None:
    """Raise unless `order` is a whole number from 0 to `MAX_ORDER`."""
    if not isinstance(order, int) or isinstance(order, bool) or not 0 <= order <= MAX_ORDER:
        raise DcacheError(f"order must be a whole number from 0 to {MAX_ORDER}, got {order!r}")
