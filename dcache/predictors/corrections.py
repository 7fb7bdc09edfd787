"""Corrections: `scale * y + shift`, channel by channel, of a site's prediction in one evaluation.

CacheQuant (Liu et al. 2025) fits them by least squares; ERTACache (Peng et al. 2025) uses a linearised form.
A table belongs to the plan with which it was fitted: every entry names the newest anchor of its prediction,
and is not applied in a run whose newest anchor is another.

Only the first stored output of a site is corrected, after decoding and in float32 (float64 for float64);
further outputs, such as the text stream, are not. Anchors are not corrected, nor are further calls of a
module in one evaluation.
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
# The dtype in which narrow dtypes are corrected.
_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


class Correction(NamedTuple):
    """The correction of one site in one evaluation.

    Attributes:
        scale: (C,), float32, on the CPU.
        shift: the same.
        anchor: evaluation of the newest anchor for which it was fitted.
    """

    scale: torch.Tensor
    shift: torch.Tensor
    anchor: int


class Corrections:
    """The corrections of a plan. Two are equal if all their numbers are.

    Args:
        table: site -> evaluation -> `Correction`; predictions without an entry are not corrected.
        dims: site -> dimension of its output's channels: -1 for tokens, 1 for feature maps and latents.

    Raises:
        DcacheError: a site is unknown or has no dimension, its entries differ in length, or a number is not
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
        """The corrector of one site; None if it has no entry."""
        rows = self.table.get(site)
        return None if rows is None else Corrector(site, rows, self.dims[site])

    def only(self, sites: Iterable[str]) -> Corrections | None:
        """The corrections of these sites; None if there are none."""
        table = {site: self.table[site] for site in self.table if site in set(sites)}
        return Corrections(table, self.dims) if table else None

    def used(self, branches: Iterable[Rows]) -> Corrections | None:
        """The entries that apply to a prediction of a schedule; None if there are none.

        Args:
            branches: for each branch of the schedule, site -> one bool per evaluation, True = compute.
        """
        every = list(branches)
        table = {
            site: {t: row for t, row in rows.items() if any(_is_used(b[site], t, row.anchor) for b in every)}
            for site, rows in self.table.items()
        }
        corrections = Corrections(table, self.dims)
        return corrections if corrections.table else None

    @cached_property
    def digest(self) -> str:
        """Hash of all entries, sixteen hexadecimal digits."""
        sha = hashlib.sha256()
        for site, rows in sorted(self.table.items()):
            sha.update(f"{site} {self.dims[site]} {self.channels(site)};".encode())
            for t, row in rows.items():
                sha.update(f"{t} {row.anchor};".encode())
                for part in (row.scale, row.shift):
                    sha.update(part.numpy().tobytes())
        return sha.hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Corrections) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Corrections({', '.join(self.sites)}: {self.digest})"

    def content(self) -> dict[str, Any]:
        """Their description in a schedule file, as JSON values; scales and shifts are in a second file."""
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
    """Corrects the predictions of one bound site.

    Args:
        site: the site's name.
        rows: evaluation -> correction. Scales and shifts are copied to each device on first use.
        dim: dimension of the channels.
    """

    def __init__(self, site: str, rows: Mapping[int, Correction], dim: int) -> None:
        self.site = site
        self.rows = rows
        self.dim = dim
        self._ready: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def corrected_sum(self, summed: Sum, index: int, anchor: int) -> Sum:
        """`summed` followed by the correction of this evaluation; `summed` itself if there is no entry.

        Args:
            summed: `weighted_sum`, or a function of the same signature.
            index: the evaluation.
            anchor: evaluation of the newest anchor.
        """
        row = self.rows.get(index)
        return summed if row is None or row.anchor != anchor else partial(self.predict, summed, index)

    def check(self, leaf: Stored) -> None:
        """Check that a site's stored output has as many channels as the corrections.

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


def _is_used(row: tuple[bool, ...], t: int, anchor: int) -> bool:
    """True if evaluation t is predicted from `anchor` as its newest anchor."""
    before = [i for i in range(min(t, len(row))) if row[i]]
    # Without an anchor a site is computed, so evaluation 0 is one whatever the row says.
    return t < len(row) and not row[t] and (before[-1] if before else 0) == anchor


def _check(name: str, t: Any, row: Correction, channels: int) -> None:
    if not isinstance(t, int) or not isinstance(row.anchor, int) or not 0 <= row.anchor < t:
        raise DcacheError(f"{name} must name an earlier evaluation as its anchor, got {row.anchor!r}")
    for part in (row.scale, row.shift):
        if part.shape != (channels,) or not channels or part.dtype != torch.float32:
            raise DcacheError(
                f"{name} needs {channels} float32 numbers, got {tuple(part.shape)} of {part.dtype}"
            )
        if not bool(part.isfinite().all()):
            raise DcacheError(f"{name} holds NaN or infinity: fit it again")
