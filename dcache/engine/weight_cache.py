"""Caches the last weights: most sites have the same anchors, and so the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dcache.predictors.base import Predictor


class WeightCache:
    """Stores the last weights with their arguments, and returns them again for equal arguments."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._weights: list[float] = []

    def weights(
        self, predictor: Predictor, taus: Sequence[float], steps: Sequence[int], tau: float
    ) -> list[float]:
        """As `Predictor.weights`; the result must not be changed."""
        key = self._key
        if not key or key[0] is not predictor or key[1:] != (tau, taus, steps):
            # Copies, because a history changes its lists in place.
            self._key = (predictor, tau, list(taus), list(steps))
            self._weights = predictor.weights(taus, steps, tau)
        return self._weights
