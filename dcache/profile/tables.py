"""`FeatureTables`: second moments and distances of a site's features over the evaluations of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcache.errors import DcacheError

Floats = NDArray[np.float64]

FRAMES = ("value", "delta")


@dataclass(frozen=True)
class FeatureTables:
    """Statistics of one site on one branch, in one frame: z is its output (`value`) or output minus input.

    Attributes:
        gram: (T, T), the mean over elements, prompts and seeds of z_t * z_u.
        distance: (T, T), the mean of |z_t - z_u|.
        size: (T,), the mean of |z_t|.
    """

    gram: Floats
    distance: Floats
    size: Floats

    @property
    def squared(self) -> Floats:
        """(T, T), the mean of (z_a - z_t)^2."""
        power = np.diag(self.gram)
        return np.maximum(power[:, None] + power[None, :] - 2.0 * self.gram, 0.0)

    @property
    def relative(self) -> Floats:
        """(T, T), `[a, t]` = mean|z_a - z_t| / mean|z_t| (relL1): error at t of reusing step a."""
        return self.distance / np.maximum(self.size, np.finfo(np.float64).tiny)[None, :]

    @property
    def cosine(self) -> Floats:
        """(T, T), the cosine of z_a and z_t."""
        power = np.sqrt(np.maximum(np.diag(self.gram), np.finfo(np.float64).tiny))
        return self.gram / (power[:, None] * power[None, :])

    def __add__(self, other: FeatureTables) -> FeatureTables:
        return FeatureTables(self.gram + other.gram, self.distance + other.distance, self.size + other.size)

    def scaled(self, by: float) -> FeatureTables:
        """Every number times `by`."""
        return FeatureTables(self.gram * by, self.distance * by, self.size * by)


def check_segments(segments: Floats | None, steps: int) -> None:
    """Check errors of segments, as in `Profile.segments`; None is none.

    Raises:
        DcacheError: they are no table (steps, L), or an error within the run is not finite or below 0.
    """
    if segments is None:
        return
    if segments.ndim != 2 or len(segments) != steps:
        raise DcacheError(
            f"the profile's segments have the shape {segments.shape}, expected ({steps}, L): measure again"
        )
    i, n = np.indices(segments.shape)
    within = segments[i + n + 1 < steps]
    if not (np.isfinite(within) & (within >= 0.0)).all():
        raise DcacheError("the profile's segments must be finite errors, not below 0: measure them again")
