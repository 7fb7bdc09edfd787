"""`store` in Triton: subtract the input, find each row's largest magnitude, quantise to one byte."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _difference(p_y, p_x, o, m):
    """`y` plus the negated input if there is one, float32, of the offsets' shape."""
    b_z = tl.load(p_y + o, mask=m, other=0.0).to(tl.float32)
    if p_x is not None:
        b_z += tl.load(p_x + o, mask=m, other=0.0).to(tl.float32)
    return b_z


@triton.jit
def _top(b_z):
    """(R, C) -> (R,), the largest magnitude; infinity for rows with NaN."""
    b_abs = tl.abs(b_z)
    return tl.max(tl.where(b_abs < float("inf"), b_abs, float("inf")), axis=1)


@triton.jit
def _scales(b_top, LARGEST: tl.constexpr, TINY: tl.constexpr):
    """(R,) -> scales and their inverses: 0 and 0 for zeros, NaN and 0 for rows that are not finite."""
    b_scale = tl.where(b_top < TINY, 0.0, tl.div_rn(b_top, tl.full(b_top.shape, LARGEST, tl.float32)))
    b_scale = tl.where(b_top < float("inf"), b_scale, float("nan"))
    good = b_scale > 0
    b_one = tl.full(b_top.shape, 1.0, tl.float32)
    return b_scale, tl.where(good, tl.div_rn(b_one, tl.where(good, b_scale, b_one)), 0.0)


@triton.jit
def _rounded(b_v, WHOLE: tl.constexpr):
    """Round to nearest even, to whole numbers or to numbers of float8_e4m3fn, so that the cast is exact.

    Adding and subtracting 1.5 * 2^23 quanta rounds to a multiple of the quantum. The quantum is 1 for whole
    numbers; for float8 it is an eighth of the power of two below the number, which is at least 2^-6.
    """
    if WHOLE:
        b_far = tl.full(b_v.shape, 12582912.0, tl.float32)
    else:
        b_power = (b_v.to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
        b_far = tl.maximum(b_power, 0.015625) * 1572864.0
    return (b_v + b_far) - b_far


@triton.jit
def _write(p_data, b_z, b_inverse, o, m):
    """Quantise and write one block of rows, (R, C); zeros if the scale has no inverse."""
    b_v = tl.where(b_inverse[:, None] > 0, b_z, 0.0) * b_inverse[:, None]
    b_v = _rounded(b_v, p_data.dtype.element_ty == tl.int8)
    tl.store(p_data + o, b_v.to(p_data.dtype.element_ty), mask=m)


@triton.jit
def pack_kernel(
    p_data, p_scale, p_y, p_x, G,
    ROW: tl.constexpr, LARGEST: tl.constexpr, TINY: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Quantise G rows of ROW elements, R per program: grid (row blocks,). Columns beyond C are read twice."""
    o_row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    o_c = tl.arange(0, C)[None, :]
    m_row = o_row < G
    o = o_row[:, None] * ROW + o_c
    m = m_row[:, None] & (o_c < ROW)
    # (R, C)
    b_z = _difference(p_y, p_x, o, m)
    b_top = _top(b_z)
    for c in range(C, ROW, C):
        b_top = tl.maximum(b_top, _top(_difference(p_y, p_x, o + c, m_row[:, None] & (c + o_c < ROW))))
    b_scale, b_inverse = _scales(b_top, LARGEST, TINY)
    tl.store(p_scale + o_row, b_scale, mask=m_row)
    _write(p_data, b_z, b_inverse, o, m)
    for c in range(C, ROW, C):
        m_c = m_row[:, None] & (c + o_c < ROW)
        _write(p_data, _difference(p_y, p_x, o + c, m_c), b_inverse, o + c, m_c)


@triton.jit
def cast_kernel(p_out, p_y, p_x, L, BLOCK: tl.constexpr):
    """`y` plus the negated input, rounded to the input's dtype and then cast: grid (blocks,), L elements."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    m = o < L
    # (BLOCK,)
    b_z = _difference(p_y, p_x, o, m).to(p_x.dtype.element_ty)
    tl.store(p_out + o, b_z.to(p_out.dtype.element_ty), mask=m)
