"""`changes` in plain torch: the specification of the kernel, which also runs on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

# Elements processed at a time: 1 MB in float32, which stays in a CPU's cache and bounds the memory allocated.
PIECE = 1 << 18

# Name of a sum -> function that writes its terms into `d`.
_TERMS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "distance": lambda x, y, d: torch.sub(x, y, out=d).abs_(),
    "length": lambda _, y, d: torch.abs(y, out=d),
    "square": lambda x, y, d: torch.sub(x, y, out=d).square_(),
    "xy": lambda x, y, d: torch.mul(x, y, out=d),
    "xx": lambda x, _, d: torch.mul(x, x, out=d),
    "yy": lambda _, y, d: torch.mul(y, y, out=d),
}
SUMS = tuple(_TERMS)


def changes(x: torch.Tensor, y: torch.Tensor, names: Sequence[str], lead: int) -> list[torch.Tensor]:
    """The sums called `names`, each of shape x.shape[:lead]; see `dcache.kernels.changes`."""
    if x.numel() <= PIECE:
        return _piece(x, y, names, lead)
    shape = x.shape[:lead]
    G = shape.numel()
    x, y = x.reshape(G, -1), y.reshape(G, -1)
    N = x.shape[1]
    columns = min(N, PIECE)
    rows = max(PIECE // columns, 1)
    down = []
    for i in range(0, G, rows):
        some = [torch.split(t[i : i + rows], columns, 1) for t in (x, y)]
        pieces = [torch.stack(_piece(a, b, names, 1)) for a, b in zip(*some, strict=True)]
        down.append(torch.stack(pieces).sum(0))
    return [total.view(shape) for total in torch.cat(down, 1).unbind()]


def _piece(x: torch.Tensor, y: torch.Tensor, names: Sequence[str], lead: int) -> list[torch.Tensor]:
    if torch.float64 in (x.dtype, y.dtype):
        x, y = x.double(), y.double()
    else:
        x, y = x.float(), y.float()
    d = torch.empty_like(x)
    sums = []
    for name in names:
        terms = _TERMS[name](x, y, d)
        sums.append(terms.reshape(*x.shape[:lead], x.shape[lead:].numel()).sum(-1) if lead else terms.sum())
    return sums
