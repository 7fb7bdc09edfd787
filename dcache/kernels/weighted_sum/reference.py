"""`weighted_sum` in plain torch: the specification of the kernel, which also runs on CPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dcache.kernels.packed import Packed, Stored

Weights = Sequence[float] | torch.Tensor

NARROW = (torch.float16, torch.bfloat16)


def weighted_sum(
    base: torch.Tensor | None,
    anchors: Sequence[Stored],
    weights: Weights,
    dtype: torch.dtype,
    *,
    gate: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`base + gate * sum_i weights[i] * anchors[i]`; see `dcache.kernels.weighted_sum`."""
    w = weights.tolist() if isinstance(weights, torch.Tensor) else weights
    wide = torch.float32 if dtype in NARROW and not _rounds_once(base, anchors, w, dtype, gate) else dtype
    inside = (
        out
        if out is not None and out.dtype == wide and _may_accumulate_in(out, base, anchors, gate)
        else None
    )
    first, under = anchors[0], base if gate is None else None
    if under is not None and under.dtype is wide and isinstance(first, torch.Tensor):
        total = torch.add(under, first.to(wide), alpha=w[0], out=inside)
    elif under is None and isinstance(first, torch.Tensor) and first.dtype is wide:
        total = first.clone() if w[0] == 1.0 else torch.mul(first, w[0], out=inside)
    else:
        total = _widened(under, first, w[0], wide, inside)
    for i in range(1, len(anchors)):
        z = anchors[i]
        if isinstance(z, torch.Tensor):
            total.add_(z if z.dtype is wide else z.to(wide), alpha=w[i])
        else:
            _add(total, z, w[i])
    if gate is not None:
        total.mul_(gate.to(wide))
        if base is not None:
            total.add_(base.to(wide))
    if out is None:
        return total if dtype is wide else total.to(dtype)
    return out if total is out else out.copy_(total)


def _widened(
    base: torch.Tensor | None, anchor: Stored, w: float, wide: torch.dtype, out: torch.Tensor | None
) -> torch.Tensor:
    """The sum of base and first anchor, if one is narrower than `wide`, in new memory or in `out`."""
    if base is not None:
        total = base.to(wide, copy=True)
        _add(total, anchor, w)
        return total
    first = anchor.to(wide)
    return first if w == 1.0 else torch.mul(first, w, out=out)


def _add(total: torch.Tensor, anchor: Stored, w: float) -> None:
    if isinstance(anchor, Packed):
        wide, scale = anchor.scaled()
        total.addcmul_(wide.to(total.dtype), scale.to(total.dtype), value=w)
    else:
        total.add_(anchor if anchor.dtype is total.dtype else anchor.to(total.dtype), alpha=w)


def _rounds_once(
    base: torch.Tensor | None,
    anchors: Sequence[Stored],
    w: Sequence[float],
    dtype: torch.dtype,
    gate: torch.Tensor | None,
) -> bool:
    """True if the sum is a single product without further rounding, so that it needs no wider dtype."""
    if base is not None or gate is not None or len(anchors) > 1:
        return False
    (only,) = anchors
    return w[0] == 1.0 or (isinstance(only, torch.Tensor) and only.dtype == dtype)


def _may_accumulate_in(
    out: torch.Tensor, base: torch.Tensor | None, anchors: Sequence[Stored], gate: torch.Tensor | None
) -> bool:
    """True if `out` may hold the partial sum: it shares no memory with a tensor that is read later."""
    later = [*anchors[1:], gate, base if gate is not None else None]
    return all(not isinstance(t, torch.Tensor) or t.data_ptr() != out.data_ptr() for t in later)
