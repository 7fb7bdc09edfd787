"""The arithmetic of guidance's two branches: telling them apart, their bands, their rows. No state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dcache.predictors.guided_pair import halves_equal

_COLLINEAR = 0.05

# Of one call of the denoiser its branch, the batch that it was given, and its first output.
SeenCall = tuple[str, torch.Tensor | None, torch.Tensor]


@dataclass(frozen=True)
class Pair:
    """Where the two siblings are.

    Attributes:
        rows: whether they are halves of one batch, else two calls.
        cond_first: whether the one with the prompt is the first half, or the first call.
    """

    rows: bool
    cond_first: bool


def pair_of(calls: Sequence[SeenCall], mixed: torch.Tensor) -> Pair | str | None:
    """Which outputs of one evaluation guidance mixed, and how.

    Args:
        calls: those of the evaluation, in their order; at least one.
        mixed: what the sampler is given after them.

    Returns:
        The pair; why there is none and never will be; or None where this run has no guidance.
    """
    outputs = [output for _, _, output in calls]
    rows = len(calls) == 1
    if rows:
        halves = _halves_of(calls[0][1], outputs[0], mixed)
        if halves is None or isinstance(halves, str):
            return halves
        outputs = halves
    if len(outputs) != 2:
        return f"the denoiser is called {len(outputs)} times between two sampler steps, not twice"
    cond_first = cond_is_first(outputs[0], outputs[1], mixed)
    if cond_first is None:
        return "the sampler is not given u + s (c - u) of the denoiser's two outputs u and c"
    if not rows and not cond_first:
        return "the branch without the prompt is called before the one with it"
    return Pair(rows, cond_first)


def _halves_of(
    entry: torch.Tensor | None, output: torch.Tensor, mixed: torch.Tensor
) -> list[torch.Tensor] | str | None:
    """The halves of the one batch of an evaluation; why there are none; None where there is no guidance."""
    given, came = mixed.shape[:1].numel(), output.shape[0]
    if not halves_equal(entry) or came % 2:
        batch = entry is not None and entry.shape[:1].numel() == came
        if batch and 0 < given < came and came % given == 0:
            return f"the {came} rows of a batch are mixed, but are not two halves of equal inputs"
        return None
    if given == came and not halves_equal(mixed):
        # Pictures of equal seeds are halves too.
        return None
    return list(output.chunk(2))


def cond_is_first(a: torch.Tensor, b: torch.Tensor, mixed: torch.Tensor) -> bool | None:
    """Whether a is the output with the prompt, of two whose mixture u + s (c - u) with s > 1 this is.

    The mixture may have changed its sign, may have lost channels of the output (a learned variance), may have
    channels that were not mixed, and may come twice, in the place of each output.

    Args:
        a: one output, (B, C, ...).
        b: the other, of the same shape.
        mixed: what the sampler is given, (B, C', ...) or (2 B, C', ...) with C' <= C.

    Returns:
        None where it is no such mixture.
    """
    if halves_equal(mixed) and mixed.shape[0] == 2 * a.shape[0]:
        mixed = mixed.chunk(2)[0]
    if a.shape != mixed.shape and a.ndim == mixed.ndim and a.ndim > 1:
        a, b = a[:, : mixed.shape[1]], b[:, : mixed.shape[1]]
    if a.shape != mixed.shape:
        return None
    # Apple's devices have no float64.
    wide = torch.float32 if a.device.type == "mps" else torch.float64
    a, b = a.to(wide), b.to(wide)
    # Of each sign: how far off the line through both outputs the mixture lies, and where along it.
    fits: list[tuple[float, float]] = []
    for signed in (mixed.to(wide), -mixed.to(wide)):
        free = (signed != a) & (signed != b)
        m, start, way = signed[free], a[free], (b - a)[free]
        length = float((way * way).sum())
        if length == 0.0:
            continue
        share = float(((m - start) * way).sum()) / length
        off = float((m - start - share * way).norm()) / max(float((m - start).norm()), 1e-30)
        if off < _COLLINEAR and not 0.0 <= share <= 1.0:
            fits.append((off, share))
    # Far from both outputs either sign is nearly on their line; the true one is on it.
    return min(fits)[1] < 0.0 if fits else None


def split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The low and the high frequencies of pictures or videos, which add up to x.

    Args:
        x: (B, C, H, W) or (B, C, F, H, W); of anything else all is low. Low is within a fifth of the shorter
            side from the centre of the spectrum.
    """
    if x.ndim < 4:
        return x, torch.zeros_like(x)
    height, width = x.shape[-2:]
    radius = min(height, width) // 5
    rows = (torch.fft.fftfreq(height, device=x.device) * height).abs().view(-1, 1) <= radius
    columns = (torch.fft.fftfreq(width, device=x.device) * width).abs() <= radius
    # The real part alone would keep the storage of the complex numbers.
    low = torch.fft.ifft2(torch.fft.fft2(x) * (rows & columns)).real.contiguous()
    return low, x - low


def rows_of(value: Any, rows: int, part: slice) -> Any:
    """The same arguments with only a part of the batch's rows."""
    if isinstance(value, torch.Tensor):
        return value[part] if value.ndim and value.shape[0] == rows else value
    if type(value) is dict:
        return {key: rows_of(item, rows, part) for key, item in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(rows_of(item, rows, part) for item in value)
    return value
