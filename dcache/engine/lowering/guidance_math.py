"""The arithmetic of guidance's two branches: telling them apart, their bands, their rows. No state."""

from __future__ import annotations

from typing import Any

import torch

from dcache.predictors.guided_pair import halves_equal

_COLLINEAR = 0.05


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
    found: list[tuple[float, float]] = []
    for signed in (mixed.to(wide), -mixed.to(wide)):
        free = (signed != a) & (signed != b)
        m, start, way = signed[free], a[free], (b - a)[free]
        length = float((way * way).sum())
        if length == 0.0:
            continue
        share = float(((m - start) * way).sum()) / length
        off = float((m - start - share * way).norm()) / max(float((m - start).norm()), 1e-30)
        if off < _COLLINEAR and not 0.0 <= share <= 1.0:
            found.append((off, share))
    # Far from both outputs either sign is nearly on their line; the true one is on it.
    return min(found)[1] < 0.0 if found else None


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
