"""`weighted_sum` in Triton: every input is read once, summed in float32, rounded once and written.

All tensors are contiguous and viewed flat. A program processes BLOCK elements in groups of V, with offsets
`o_g` of (groups, 1) and `o_v` of (1, V). A group lies within one row, so it needs one load of a scale. The
block's first element `start` is int64; offsets from there are int32.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Most anchors of one launch: three of a parabola, times the two halves of a guided batch.
MOST = 6


@triton.jit
def _float32(p, start, o_g, o_v, L):
    """One block of a tensor, (groups, V) float32."""
    return tl.load(p + start + o_g + o_v, mask=start + o_g + o_v < L, other=0.0).to(tl.float32)


@triton.jit
def _term(p_z, p_s, p_w, start, o_g, o_v, L, ROW: tl.constexpr):
    """One anchor times its weight, (groups, V) float32; ROW elements share a scale if there are scales."""
    b_z = _float32(p_z, start, o_g, o_v, L)
    if p_s is not None:
        o_row = start // ROW + ((start % ROW).to(tl.int32) + o_g) // ROW
        # (groups, 1)
        b_z *= tl.load(p_s + o_row, mask=start + o_g < L, other=0.0)
    return b_z * tl.load(p_w)


@triton.jit
def _gate(p_gate, start, o_g, o_v, L, N, D: tl.constexpr):
    """The gate (B, 1, D), broadcast to (B, N, D), (groups, V) float32."""
    o_line = start // D
    o_d = (start % D).to(tl.int32) + o_g
    o_b = o_line // N + ((o_line % N).to(tl.int32) + o_d // D) // N
    # (groups, V)
    return tl.load(p_gate + o_b * D + o_d % D + o_v, mask=start + o_g + o_v < L, other=0.0).to(tl.float32)


@triton.jit
def _sum(
    p_out, p_base, p_gate, p_w,
    p_z0, p_z1, p_z2, p_z3, p_z4, p_z5,
    p_s0, p_s1, p_s2, p_s3, p_s4, p_s5,
    i_block, L, N,
    COUNT: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Write one block of `base + gate * sum_i w_i z_i`, L elements in all."""
    start = i_block.to(tl.int64) * BLOCK
    o_g = tl.arange(0, BLOCK // V)[:, None] * V
    o_v = tl.arange(0, V)[None, :]
    b_sum = tl.zeros((BLOCK // V, V), tl.float32)
    if p_base is not None and p_gate is None:
        b_sum = _float32(p_base, start, o_g, o_v, L)
    b_sum += _term(p_z0, p_s0, p_w, start, o_g, o_v, L, ROW)
    if COUNT > 1:
        b_sum += _term(p_z1, p_s1, p_w + 1, start, o_g, o_v, L, ROW)
    if COUNT > 2:
        b_sum += _term(p_z2, p_s2, p_w + 2, start, o_g, o_v, L, ROW)
    if COUNT > 3:
        b_sum += _term(p_z3, p_s3, p_w + 3, start, o_g, o_v, L, ROW)
    if COUNT > 4:
        b_sum += _term(p_z4, p_s4, p_w + 4, start, o_g, o_v, L, ROW)
    if COUNT > 5:
        b_sum += _term(p_z5, p_s5, p_w + 5, start, o_g, o_v, L, ROW)
    if p_gate is not None:
        b_sum *= _gate(p_gate, start, o_g, o_v, L, N, D)
        if p_base is not None:
            b_sum += _float32(p_base, start, o_g, o_v, L)
    tl.store(p_out + start + o_g + o_v, b_sum.to(p_out.dtype.element_ty), mask=start + o_g + o_v < L)


@triton.jit
def weighted_sum_kernel(
    p_out, p_base, p_gate, p_w,
    p_z0, p_z1, p_z2, p_z3, p_z4, p_z5,
    p_s0, p_s1, p_s2, p_s3, p_s4, p_s5,
    L, N,
    COUNT: tl.constexpr, ROW: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """One sum of L elements: grid (blocks,), weights (COUNT,) float32, absent pointers None."""
    _sum(
        p_out, p_base, p_gate, p_w, p_z0, p_z1, p_z2, p_z3, p_z4, p_z5, p_s0, p_s1, p_s2, p_s3, p_s4, p_s5,
        tl.program_id(0), L, N, COUNT, ROW, D, BLOCK, V,
    )  # fmt: skip


@triton.jit
def _pointer(p_address, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The address stored at `p_address` as a pointer, None if there is no dtype."""
    if DTYPE is None:
        p = None
    else:
        p = tl.load(p_address).to(tl.pointer_type(DTYPE))
        if ALIGNED:
            p = tl.multiple_of(p, 16)
    return p


@triton.jit
def weighted_sums_kernel(
    p_jobs, p_w,
    OUT: tl.constexpr, BASE: tl.constexpr,
    Z0: tl.constexpr, Z1: tl.constexpr, Z2: tl.constexpr,
    Z3: tl.constexpr, Z4: tl.constexpr, Z5: tl.constexpr,
    S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr,
    S3: tl.constexpr, S4: tl.constexpr, S5: tl.constexpr,
    COUNT: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr, V: tl.constexpr,
    WIDTH: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Many sums of equal dtypes, grid (blocks of the longest, jobs).

    A job is a line of `p_jobs`, (jobs, WIDTH) int64: its number of elements, then the addresses of out, base,
    six anchors and six scales. The dtypes are the same for all jobs, None for absent tensors. Weights are
    (jobs, COUNT), float32.
    """
    i_job = tl.program_id(1)
    p_job = p_jobs + i_job * WIDTH
    L = tl.load(p_job)
    if ALIGNED:
        L = tl.multiple_of(L, 16)
    if tl.program_id(0).to(tl.int64) * BLOCK < L:
        _sum(
            _pointer(p_job + 1, OUT, ALIGNED), _pointer(p_job + 2, BASE, ALIGNED), None, p_w + i_job * COUNT,
            _pointer(p_job + 3, Z0, ALIGNED), _pointer(p_job + 4, Z1, ALIGNED),
            _pointer(p_job + 5, Z2, ALIGNED), _pointer(p_job + 6, Z3, ALIGNED),
            _pointer(p_job + 7, Z4, ALIGNED), _pointer(p_job + 8, Z5, ALIGNED),
            _pointer(p_job + 9, S0, ALIGNED), _pointer(p_job + 10, S1, ALIGNED),
            _pointer(p_job + 11, S2, ALIGNED), _pointer(p_job + 12, S3, ALIGNED),
            _pointer(p_job + 13, S4, ALIGNED), _pointer(p_job + 14, S5, ALIGNED),
            tl.program_id(0), L, 1, COUNT, ROW, 1, BLOCK, V,
        )  # fmt: skip
