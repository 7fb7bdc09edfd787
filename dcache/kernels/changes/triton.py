"""`changes` in Triton: both tensors are read once, and no tensor of their size is written.

Every program sums a part of some rows in float32, lane by lane, and then over its lanes; a second, small sum
adds the parts. The split of the work depends only on the shape, and there are no atomic additions, so equal
inputs give equal bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dcache.kernels.launch import on_device

_BLOCK = 1024
# Fewest elements of a row per program, and the number of programs that fill a large GPU.
_SPAN = 8 * _BLOCK
_PROGRAMS = 1024


@triton.jit
def changes_kernel(
    p_x, p_y, p_parts, stride_x, stride_y, G, N, P, size, span, BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Sums over columns [i_p span, (i_p + 1) span) of BLOCK_G rows, into parts (6, G, P); size = G P."""
    i_g, i_p = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    o_g = i_g * BLOCK_G + tl.arange(0, BLOCK_G)
    m_g = o_g < G
    b_distance = tl.zeros([BLOCK_G, BLOCK_N], tl.float32)
    b_length = tl.zeros([BLOCK_G, BLOCK_N], tl.float32)
    b_square = tl.zeros([BLOCK_G, BLOCK_N], tl.float32)
    b_xy = tl.zeros([BLOCK_G, BLOCK_N], tl.float32)
    b_xx = tl.zeros([BLOCK_G, BLOCK_N], tl.float32)
    b_yy = tl.zeros([BLOCK_G, BLOCK_N], tl.float32)
    for start in range(0, span, BLOCK_N):
        o_n = i_p * span + start + tl.arange(0, BLOCK_N)
        mask = m_g[:, None] & (o_n < N)[None, :]
        # [BLOCK_G, BLOCK_N]; zero outside the tensor
        b_x = tl.load(p_x + (o_g * stride_x)[:, None] + o_n[None, :], mask, other=0.0).to(tl.float32)
        b_y = tl.load(p_y + (o_g * stride_y)[:, None] + o_n[None, :], mask, other=0.0).to(tl.float32)
        b_d = b_x - b_y
        b_distance += tl.abs(b_d)
        b_length += tl.abs(b_y)
        b_square += b_d * b_d
        b_xy += b_x * b_y
        b_xx += b_x * b_x
        b_yy += b_y * b_y
    # [BLOCK_G]
    o_parts = o_g * P + i_p
    tl.store(p_parts + o_parts, tl.sum(b_distance, 1), m_g)
    tl.store(p_parts + o_parts + size, tl.sum(b_length, 1), m_g)
    tl.store(p_parts + o_parts + 2 * size, tl.sum(b_square, 1), m_g)
    tl.store(p_parts + o_parts + 3 * size, tl.sum(b_xy, 1), m_g)
    tl.store(p_parts + o_parts + 4 * size, tl.sum(b_xx, 1), m_g)
    tl.store(p_parts + o_parts + 5 * size, tl.sum(b_yy, 1), m_g)


def changes(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """All six sums over the rows of x and y.

    Args:
        x: (G, N), not empty, of one of `launch.DTYPES`.
        y: (G, N), the same. Tensors that are not contiguous along a row are copied first.

    Returns:
        (6, G), float32, in the order of `SUMS`.
    """
    G, N = x.shape
    x, y = (t if t.stride(1) == 1 else t.contiguous() for t in (x, y))
    block_n = min(triton.next_power_of_2(N), _BLOCK)
    block_g = min(triton.next_power_of_2(G), _BLOCK // block_n)
    programs = triton.cdiv(G, block_g)
    cuts = min(triton.cdiv(N, _SPAN), triton.cdiv(_PROGRAMS, programs))
    span = triton.cdiv(triton.cdiv(N, cuts), block_n) * block_n
    cuts = triton.cdiv(N, span)
    parts = torch.empty(6, G, cuts, dtype=torch.float32, device=x.device)
    with on_device(x.device):
        changes_kernel[(programs, cuts)](
            x, y, parts, x.stride(0), y.stride(0), G, N, cuts, G * cuts, span,
            BLOCK_G=block_g, BLOCK_N=block_n,
        )  # fmt: skip
    return parts.sum(2) if cuts > 1 else parts.view(6, G)
