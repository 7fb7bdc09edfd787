"""The timed cases: ops as the engine calls them, and the eager chains that they replace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.kernels import (
    Packed,
    changes,
    gather_rows,
    launch,
    relative_change,
    scatter_rows,
    store,
    weighted_sum,
)
from dcache.kernels.packed import Stored
from dcache.kernels.store import empty
from dcache.kernels.weighted_sum import Job, weighted_sums

# Tensors are tokens (BATCH, N, WIDTH), as in a transformer; every second one is gathered.
BATCH, WIDTH = 2, 512
TOGETHER = 16
# A straight line through two anchors, and a parabola through three.
LINE, PARABOLA = (-0.5, 1.5), (1.0, -3.0, 3.0)


@dataclass(frozen=True)
class Case:
    """One op on given tensors.

    Attributes:
        op: name in the table.
        tensors: all tensors that are read, and one for each that is written: their sizes are the bytes moved.
        run: calls the op.
        eager: the same in plain torch.
        kernel: whether a Triton kernel runs.
        new: whether the op allocates its result; then the copy allocates too.
    """

    op: str
    tensors: tuple[Any, ...]
    run: Callable[[], Any]
    eager: Callable[[], Any]
    kernel: bool
    new: bool = True

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return sum(t.numel() * t.itemsize for t in _plain(self.tensors))

    def copy(self) -> Callable[[], Any]:
        """A copy that moves the same number of bytes."""
        source = torch.zeros(self.moved // 2, dtype=torch.uint8, device=_plain(self.tensors)[0].device)
        target = torch.empty_like(source)
        return source.clone if self.new else lambda: target.copy_(source)

    def off(self) -> float:
        """Largest difference of the two results, divided by the eager result's largest magnitude."""
        result, expected = (torch.cat([t.flatten() for t in _wide(op())]) for op in (self.run, self.eager))
        return float((result - expected).abs().max() / expected.abs().max())


def all_cases(size: int, dtype: torch.dtype, device: str) -> Iterator[Case]:
    """All cases, for tensors of `size` bytes.

    Raises:
        DcacheError: `size` is not a multiple of the smallest tensor.
    """
    N = size // (BATCH * WIDTH * dtype.itemsize)
    if N < TOGETHER or N % TOGETHER or size != N * BATCH * WIDTH * dtype.itemsize:
        least = TOGETHER * BATCH * WIDTH * dtype.itemsize
        raise DcacheError(f"a size is a multiple of {least} bytes in {dtype}, got {size}")
    random = torch.Generator().manual_seed(0)

    def tokens() -> torch.Tensor:
        return torch.randn(BATCH, N, WIDTH, generator=random).to(device, dtype)

    yield from _sums([tokens() for _ in range(4)])
    yield from _stores(tokens(), tokens())
    yield from _changes(tokens(), tokens())
    index = torch.stack([torch.randperm(N, generator=random)[: N // 2] for _ in range(BATCH)])
    yield from _rows(tokens(), index.sort(1).values.to(device))


def _sums(tensors: list[torch.Tensor]) -> Iterator[Case]:
    x, *z = tensors
    dtype, kernel = x.dtype, launch.taken("weighted_sum", x)
    for base, weights in ((None, LINE), (x, LINE), (x, PARABOLA)):
        anchors = z[: len(weights)]
        yield Case(
            f"weighted_sum, {'base + ' if base is not None else ''}{len(weights)} anchors",
            (x, *anchors, *([] if base is None else [base])),
            partial(weighted_sum, base, anchors, weights, dtype),
            partial(_chain, base, anchors, weights),
            kernel,
        )
    small = [[part.contiguous() for part in t.chunk(TOGETHER, 1)] for t in (x, *z[:2])]
    jobs = [Job(base, (a, b), LINE, dtype) for base, a, b in zip(*small, strict=True)]
    yield Case(
        f"weighted_sums, {TOGETHER} of base + 2 anchors",
        (x, x, *z[:2]),
        lambda: weighted_sums(jobs),
        lambda: [_chain(base, [a, b], LINE) for base, a, b in zip(*small, strict=True)],
        launch.taken("weighted_sums", *small[0]),
    )
    packed = []
    for tensor in z[:2]:
        slot = Packed.empty(tensor, torch.int8)
        store(tensor, None, slot)
        packed.append(slot)
    yield Case(
        "weighted_sum, base + 2 int8 anchors",
        (x, x, *packed),
        lambda: weighted_sum(x, packed, LINE, dtype),
        lambda: _chain(x, [_unpacked(p) for p in packed], LINE),
        kernel and launch.taken("weighted_sum", packed[0].data),
    )


def _stores(x: torch.Tensor, y: torch.Tensor) -> Iterator[Case]:
    minus = -x
    for dtype in (None, torch.bfloat16, torch.int8):
        out = empty(y, dtype)
        yield Case(
            f"store, delta{'' if dtype is None else f' in {dtype}'.replace('torch.', '')}",
            (minus, y, out),
            partial(_stored, y, minus, out),
            partial(_difference, y, x, dtype),
            _launches_store(y, minus, out),
            new=False,
        )


def _changes(x: torch.Tensor, y: torch.Tensor) -> Iterator[Case]:
    kernel = launch.taken("changes", x, y)
    yield Case(
        "changes, relative L1",
        (x, y),
        lambda: relative_change(x, y),
        lambda: (x.float() - y.float()).abs().mean() / y.float().abs().mean(),
        kernel,
        new=False,
    )
    yield Case(
        "changes, six sums by token",
        (x, y),
        lambda: list(changes(x, y, lead=2).values),
        lambda: _six(x.float(), y.float()),
        kernel,
        new=False,
    )


def _rows(x: torch.Tensor, index: torch.Tensor) -> Iterator[Case]:
    rows = -gather_rows(x, index)
    out, spread = x.clone(), index[..., None].expand(-1, -1, WIDTH)
    # The other half of x is not touched.
    yield Case(
        "gather_rows, every second token",
        (rows, rows, index),
        lambda: gather_rows(x, index),
        lambda: torch.gather(x, 1, spread),
        launch.taken("gather_rows", x, rows),
    )
    yield Case(
        "scatter_rows, every second token",
        (rows, rows, index),
        lambda: scatter_rows(out, index, rows),
        lambda: out.scatter_(1, spread, rows),
        launch.taken("scatter_rows", out, rows),
        new=False,
    )


def _chain(
    base: torch.Tensor | None, anchors: list[torch.Tensor], weights: tuple[float, ...]
) -> torch.Tensor:
    """The same sum in float32 with one rounding, term by term."""
    dtype = anchors[0].dtype if base is None else base.dtype
    terms = [w * z.float() for w, z in zip(weights, anchors, strict=True)]
    total = terms[0] if base is None else base.float() + terms[0]
    for term in terms[1:]:
        total = total + term
    return total.to(dtype)


def _launches_store(y: torch.Tensor, minus: torch.Tensor, out: Stored) -> bool:
    """Whether `store` launches a kernel; a store that is one pass in torch does not."""
    if not launch.possible(y.device):
        return False
    from dcache.kernels.store import launching

    return launching.fits(y, minus, out)


def _stored(y: torch.Tensor, minus: torch.Tensor, out: Stored) -> Stored:
    store(y, minus, out)
    return out


def _difference(y: torch.Tensor, x: torch.Tensor, dtype: torch.dtype | None) -> Stored:
    return _packed(y - x) if dtype is torch.int8 else (y - x).to(dtype or y.dtype)


def _packed(z: torch.Tensor) -> Packed:
    rows = z.float().view(-1, WIDTH)
    scale = rows.abs().amax(1) / 127
    data = (rows / scale[:, None]).round().to(torch.int8)
    return Packed(data.view(z.shape), scale, z.dtype)


def _unpacked(p: Packed) -> torch.Tensor:
    return (p.data.view(-1, WIDTH).float() * p.scale[:, None]).view(p.shape)


def _six(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    terms = ((x - y).abs(), y.abs(), (x - y) ** 2, x * y, x * x, y * y)
    return [term.sum(-1) for term in terms]


def _plain(values: Any) -> list[torch.Tensor]:
    """All tensors, those of a `Packed` among them."""
    if isinstance(values, torch.Tensor):
        return [values]
    parts = values.tensors() if isinstance(values, Packed) else values
    return [tensor for part in parts for tensor in _plain(part)]


def _wide(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor | Packed):
        result = [result]
    return [part.float32() if isinstance(part, Packed) else part.float() for part in result]
