"""Corrections: `scale * y + shift`, channel by channel, of what a site predicts in one evaluation.

CacheQuant (Liu et al. 2025) fits them by least squares; ERTACache (Peng et al. 2025) rectifies with the
linearised form of the same. A table belongs to the plan it was fitted with: every entry names the newest
anchor that its prediction stood on, and is left out where a run stands on another.

Only the first leaf of a site's output that is stored is corrected, after decoding and in float32 (float64 for
float64); further leaves (the text stream beside the picture's) are returned as they are predicted. What is
remembered is not corrected, and a module's further calls in one evaluation are not either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch

from dcache.errors import DcacheError
from dcache.kernels.packed import Stored
from dcache.sites.names import SITE_NAME

Rows = Mapping[str, tuple[bool, ...]]
Sum = Callable[..., torch.Tensor]
# What narrow dtypes are corrected in.
_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


class Correction(NamedTuple):
    """Of one site in one evaluation.

    Attributes:
        scale, shift: (C,), float32, on the CPU.
        anchor: evaluation of the newest anchor that it was fitted for.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    anchor: int


class Corrections:
    """Tables of corrections: site -> evaluation -> `Correction`; where there is no entry nothing is changed.

    Two are equal if they correct alike.

    Args:
        table: as above.
        dims: for each site the dimension of its output's channels: -1 for tokens, 1 for maps and latents.

    Raises:
        DcacheError: a site has no name or no dimension, its entries differ in length, or a number is not
            finite.
    """

    def __init__(self, table: Mapping[str, Mapping[int, Correction]], dims: Mapping[str, int]) -> None:
        self.table = {site: dict(sorted(rows.items())) for site, rows in table.items() if rows}
        self.dims = {site: dims[site] for site in self.table if site in dims}
        for site, rows in self.table.items():
            if SITE_NAME.fullmatch(site) is None or site == "guidance":
                raise DcacheError(f"corrections are of sites such as 'trunk' or 'bracket:0', got {site!r}")
            if site not in self.dims or not -4 <= self.dims[site] <= 4:
                raise DcacheError(
                    f"corrections of {site!r} need the dimension of its channels, got {dims.get(site)}"
                )
            for t, row in rows.items():
                _check(f"the correction of {site!r} at evaluation {t}", t, row, self.channels(site))

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that have entries."""
        return tuple(self.table)

    def channels(self, site: str) -> int:
        """Number of channels of a site."""
        return int(next(iter(self.table[site].values())).scale.numel())

    def of(self, site: str) -> Corrector | None:
        """What corrects one site, None where there is no entry."""
        rows = self.table.get(site)
        return None if rows is None else Corrector(site, rows, self.dims[site])

    def only(self, sites: Iterable[str]) -> Corrections | None:
        """The corrections of these sites; None where there are none."""
        kept = {site: self.table[site] for site in self.table if site in set(sites)}
        return Corrections(kept, self.dims) if kept else None

    def used(self, branches: Iterable[Rows]) -> Corrections | None:
        """Without the entries that no prediction of these rows stands on; None where nothing is left."""
        every = list(branches)
        kept = {
            site: {t: row for t, row in rows.items() if any(_stands(b[site], t, row.anchor) for b in every)}
            for site, rows in self.table.items()
        }
        found = Corrections(kept, self.dims)
        return found if found.table else None

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of all numbers."""
        found = hashlib.sha256()
        for site, rows in sorted(self.table.items()):
            found.update(f"{site} {self.dims[site]} {self.channels(site)};".encode())
            for t, row in rows.items():
                found.update(f"{t} {row.anchor};".encode())
                for part in (row.scale, row.shift):
                    found.update(part.numpy().tobytes())
        return found.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Corrections) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Corrections({', '.join(self.sites)}: {self.digest})"

    def content(self) -> dict[str, Any]:
        """What a schedule file says of them, as plain JSON values; the numbers are elsewhere."""
        return {
            "digest": self.digest,
            "sites": {
                site: {
                    "dim": self.dims[site],
                    "channels": self.channels(site),
                    "evaluations": list(rows),
                    "anchors": [row.anchor for row in rows.values()],
                }
                for site, rows in self.table.items()
            },
        }


class Corrector:
    """Corrects the predictions of one bound site; keeps the numbers on the devices where they are used."""

    def __init__(self, site: str, rows: Mapping[int, Correction], dim: int) -> None:
        self.site = site
        self.rows = rows
        self.dim = dim
        self._ready: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def around(self, summed: Sum, index: int, anchor: int) -> Sum:
        """What `summed` gives, corrected; `summed` itself where there is no entry.

        Args:
            summed: `weighted_sum`, or what takes its place.
            index: the evaluation.
            anchor: evaluation of the newest anchor.
        """
        row = self.rows.get(index)
        return summed if row is None or row.anchor != anchor else partial(self.predict, summed, index)

    def check(self, leaf: Stored) -> None:
        """Check that a site's output has as many channels as there are numbers.

        Raises:
            DcacheError: it has not.
        """
        count = next(iter(self.rows.values())).scale.numel()
        fits = -leaf.ndim <= self.dim < leaf.ndim
        if not fits or leaf.shape[self.dim] != count:
            raise DcacheError(
                f"the corrections of {self.site} are for {count} channels in dimension {self.dim}, and its "
                f"output here has the shape {tuple(leaf.shape)}: fit them on this model"
            )

    def predict(
        self,
        summed: Sum,
        index: int,
        base: torch.Tensor | None,
        anchors: Sequence[Stored],
        weights: Sequence[float],
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """`scale * (base + sum_i w_i z_i) + shift`, rounded once to `dtype`."""
        y = summed(base, anchors, weights, _WIDE.get(dtype, dtype))
        key = (index, y.device, y.dtype, y.ndim)
        ready = self._ready.get(key)
        if ready is None:
            shape = [1] * y.ndim
            shape[self.dim] = -1
            row = self.rows[index]
            scale, shift = (part.to(y.device, y.dtype).view(shape) for part in (row.scale, row.shift))
            ready = self._ready[key] = (scale, shift)
        return y.mul_(ready[0]).add_(ready[1]).to(dtype)


def _stands(row: tuple[bool, ...], t: int, anchor: int) -> bool:
    before = [i for i in range(min(t, len(row))) if row[i]]
    # The first evaluation is computed whatever the table says.
    return t < len(row) and not row[t] and (before[-1] if before else 0) == anchor


def _check(what: str, t: Any, row: Correction, channels: int) -> None:
    if not isinstance(t, int) or not isinstance(row.anchor, int) or not 0 <= row.anchor < t:
        raise DcacheError(f"{what} must stand on an earlier evaluation, got {row.anchor!r}")
    for part in (row.scale, row.shift):
        if part.shape != (channels,) or not channels or part.dtype != torch.float32:
            raise DcacheError(
                f"{what} needs {channels} float32 numbers, got {tuple(part.shape)} of {part.dtype}"
            )
        if not bool(part.isfinite().all()):
            raise DcacheError(f"{what} holds NaN or infinity: fit it again")
