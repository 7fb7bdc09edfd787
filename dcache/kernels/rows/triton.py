"""`gather_rows` and `scatter_rows` in Triton: one kernel, since they differ only in direction."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dcache.kernels.launch import on_device

_BLOCK = 2048


@triton.jit
def rows_kernel(
    p_many, p_few, p_index, m0, m1, m2, f0, f1, f2, x0, x1, x2, L1, N, K, R, k_blocks, r_blocks,
    SCATTER: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """BLOCK_K rows of one leading index, BLOCK_R elements of each: few[k] = many[index[k]], or the reverse.

    many (L0, L1, N, R) has strides (m0, m1, m2, 1), few (L0, L1, K, R) has (f0, f1, f2, 1), index (L0, L1, K)
    has (x0, x1, x2).
    """
    # A single grid axis: the others are limited to 65,535, and a row may be a whole video.
    i_0 = tl.program_id(0) // r_blocks
    i_l = i_0 // k_blocks
    i_l0, i_l1 = (i_l // L1).to(tl.int64), (i_l % L1).to(tl.int64)
    o_k = (i_0 % k_blocks).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    o_r = (tl.program_id(0) % r_blocks).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    m_k = o_k < K
    # [BLOCK_K]
    b_index = tl.load(p_index + i_l0 * x0 + i_l1 * x1 + o_k * x2, m_k, other=0).to(tl.int64)
    m_in = (b_index >= 0) & (b_index < N) & m_k
    m_r = o_r < R
    p_there = p_many + i_l0 * m0 + i_l1 * m1 + (b_index * m2)[:, None] + o_r[None, :]
    p_here = p_few + i_l0 * f0 + i_l1 * f1 + (o_k * f2)[:, None] + o_r[None, :]
    # [BLOCK_K, BLOCK_R]
    if SCATTER:
        b_rows = tl.load(p_here, m_in[:, None] & m_r[None, :])
        tl.store(p_there, b_rows, m_in[:, None] & m_r[None, :])
    else:
        b_rows = tl.load(p_there, m_in[:, None] & m_r[None, :], other=0)
        tl.store(p_here, b_rows, m_k[:, None] & m_r[None, :])


def move(many: torch.Tensor, index: torch.Tensor, few: torch.Tensor, dim: int, scatter: bool) -> bool:
    """Copy rows between `many` and `few`; False where their strides do not allow it without a copy.

    Args:
        many: (..., N, ...), with N at `dim`.
        index: (K,) or (..., K).
        few: (..., K, ...), with K at `dim`; of the same dtype, one of `launch.DTYPES`.
        dim: the axis.
        scatter: from few to many, else the other way.
    """
    a, b = _as_rows(as_bytes(many), dim), _as_rows(as_bytes(few), dim)
    if a is None or b is None:
        return False
    L0, L1, K, R = b.shape
    x = index.view(1, 1, -1).expand(L0, L1, K) if index.ndim == 1 else index.reshape(L0, L1, K)
    block_r = min(triton.next_power_of_2(R), _BLOCK)
    block_k = min(triton.next_power_of_2(K), _BLOCK // block_r)
    k_blocks, r_blocks = triton.cdiv(K, block_k), triton.cdiv(R, block_r)
    with on_device(a.device):
        rows_kernel[(L0 * L1 * k_blocks * r_blocks,)](
            a, b, x, *a.stride()[:3], *b.stride()[:3], *x.stride(), L1, a.shape[2], K, R, k_blocks, r_blocks,
            SCATTER=scatter, BLOCK_K=block_k, BLOCK_R=block_r,
        )  # fmt: skip
    return True


def as_bytes(t: torch.Tensor) -> torch.Tensor:
    """A view as integers of the same width, since rows are only copied."""
    return t.view({1: torch.int8, 2: torch.int16, 4: torch.int32}[t.itemsize])


def _as_rows(t: torch.Tensor, dim: int) -> torch.Tensor | None:
    """A view (L0, L1, N, R) with contiguous rows; None if that needs a copy."""
    lead, rest = t.shape[:dim], t.shape[dim + 1 :].numel()
    try:
        rows = t.view(lead[:1].numel(), lead[1:].numel(), t.shape[dim], rest)
    except RuntimeError:
        return None
    return rows if rest == 1 or rows.stride(3) == 1 else None
