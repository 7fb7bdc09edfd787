"""`pack` and `unpack` in Triton: each number is read once, each byte written once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dcache.kernels.launch import on_device
from dcache.kernels.lowbit.format import TERNARY, LowBit, group_rows, row_bytes
from dcache.kernels.lowbit.reference import symmetric_steps

# Numbers in a program's block.
_BLOCK = 4096
# What kernels call the format of three levels: digits in a byte.
_TRITS = 5
# Most tokens in a group per channel: a program holds all of them.
_MOST_TOKENS = 256


@triton.jit
def _levels(b_least, b_most, MOST: tl.constexpr):
    """Lows rounded down and steps rounded up, float16: every number is within half a step of a level."""
    b_low = b_least.to(tl.float16)
    b_down = (b_least - (tl.abs(b_least) * 0.0009765625 + 5.9604644775390625e-8)).to(tl.float16)
    b_low = tl.where(b_low.to(tl.float32) > b_least, b_down, b_low)
    b_exact = (b_most - b_low.to(tl.float32)) / MOST
    b_step = b_exact.to(tl.float16)
    b_up = (b_exact + (tl.abs(b_exact) * 0.0009765625 + 5.9604644775390625e-8)).to(tl.float16)
    return b_low, tl.where(b_step.to(tl.float32) < b_exact, b_up, b_step)


@triton.jit
def _write(p_codes, b_x, b_low, b_step, o_n, m_n, W, MOST: tl.constexpr, BITS: tl.constexpr):
    """Codes of a block of tokens, (R, DP), as streams of bits; W bytes in a row."""
    b_safe = tl.where(b_step > 0, b_step, 1.0)
    b_code = tl.floor((b_x - b_low) / b_safe + 0.5)
    # NaN becomes 0.
    b_code = tl.minimum(tl.maximum(b_code, 0.0), MOST).to(tl.int32)
    # Codes in a word, and its bytes.
    COUNT: tl.constexpr = 8 if BITS == 3 else 8 // BITS
    WIDTH: tl.constexpr = 3 if BITS == 3 else 1
    R: tl.constexpr = b_x.shape[0]
    WORDS: tl.constexpr = b_x.shape[1] // COUNT
    b_shift = (tl.arange(0, COUNT) * BITS)[None, None, :]
    b_word = tl.sum(tl.reshape(b_code, [R, WORDS, COUNT]) << b_shift, 2)
    o_w = tl.arange(0, WORDS)[None, :] * WIDTH
    for i in tl.static_range(WIDTH):
        m = m_n[:, None] & (o_w + i < W)
        tl.store(p_codes + o_n[:, None] * W + o_w + i, ((b_word >> (8 * i)) & 255).to(tl.uint8), m)


@triton.jit
def pack_channels_kernel(
    p_x, p_first, p_count, p_codes, p_step, p_low, stride, D, W,
    BITS: tl.constexpr, R: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """One group of at most R tokens, all channels."""
    MOST: tl.constexpr = 2**BITS - 1
    i_g = tl.program_id(0).to(tl.int64)
    first, count = tl.load(p_first + i_g), tl.load(p_count + i_g)
    o_d, o_r = tl.arange(0, DP), tl.arange(0, R)
    m_d, m_r = o_d < D, o_r < count
    m = m_r[:, None] & m_d[None, :]
    # (R, DP)
    b_x = tl.load(p_x + (first + o_r)[:, None] * stride + o_d[None, :], m, other=0.0).to(tl.float32)
    # Differences are NaN where a number is not finite; minima leave NaN out.
    b_least = tl.min(tl.where(m, b_x, float("inf")), 0) + tl.sum(b_x - b_x, 0)
    b_most = tl.max(tl.where(m, b_x, float("-inf")), 0)
    b_low, b_step = _levels(tl.where(m_d, b_least, 0.0), tl.where(m_d, b_most, 0.0), MOST)
    tl.store(p_step + i_g * D + o_d, b_step, m_d)
    tl.store(p_low + i_g * D + o_d, b_low, m_d)
    b_low, b_step = b_low.to(tl.float32)[None, :], b_step.to(tl.float32)[None, :]
    # Padded channels are zeros with low and step 0: their codes are 0.
    _write(p_codes, b_x, b_low, b_step, first + o_r, m_r, W, MOST, BITS)


@triton.jit
def pack_tokens_kernel(
    p_x, p_codes, p_step, p_low, stride, N, D, W, S,
    GROUP: tl.constexpr, BITS: tl.constexpr, R: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """R tokens, all channels, in groups of GROUP; S groups in a row."""
    MOST: tl.constexpr = 2**BITS - 1
    PARTS: tl.constexpr = DP // GROUP
    o_n = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    o_d, o_s = tl.arange(0, DP), tl.arange(0, PARTS)
    m_n, m_d, m_s = o_n < N, o_d < D, o_s < S
    m = m_n[:, None] & m_d[None, :]
    # (R, DP)
    b_x = tl.load(p_x + o_n[:, None] * stride + o_d[None, :], m, other=0.0).to(tl.float32)
    b_least = tl.min(tl.reshape(tl.where(m, b_x, float("inf")), [R, PARTS, GROUP]), 2)
    # Differences are NaN where a number is not finite; minima leave NaN out.
    b_least += tl.sum(tl.reshape(b_x - b_x, [R, PARTS, GROUP]), 2)
    b_most = tl.max(tl.reshape(tl.where(m, b_x, float("-inf")), [R, PARTS, GROUP]), 2)
    m_group = m_n[:, None] & m_s[None, :]
    b_low, b_step = _levels(tl.where(m_group, b_least, 0.0), tl.where(m_group, b_most, 0.0), MOST)
    o_group = o_n[:, None] * S + o_s[None, :]
    tl.store(p_step + o_group, b_step, m_group)
    tl.store(p_low + o_group, b_low, m_group)
    b_low = tl.broadcast_to(b_low.to(tl.float32)[:, :, None], [R, PARTS, GROUP])
    b_step = tl.broadcast_to(b_step.to(tl.float32)[:, :, None], [R, PARTS, GROUP])
    b_low, b_step = tl.reshape(b_low, [R, DP]), tl.reshape(b_step, [R, DP])
    b_code = tl.where(m, b_x, b_low)
    _write(p_codes, b_code, b_low, b_step, o_n, m_n, W, MOST, BITS)


@triton.jit
def pack_symmetric_kernel(
    p_x, p_step, p_index, p_codes, stride, N, D, W, S,
    GROUP: tl.constexpr, BITS: tl.constexpr, CHANNELS: tl.constexpr, R: tl.constexpr, WP: tl.constexpr,
):  # fmt: skip
    """R tokens, W bytes in a row: 8 signs in each, or 5 digits of three. CHANNELS as in `unpack_kernel`."""
    COUNT: tl.constexpr = 5 if BITS == 5 else 8
    BASE: tl.constexpr = 3 if BITS == 5 else 2
    o_n = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    o_w = tl.arange(0, WP)
    m_n = o_n < N
    m_w = m_n[:, None] & (o_w < W)[None, :]
    b_byte = tl.zeros([R, WP], tl.int32)
    # The highest digit first.
    for i in tl.static_range(COUNT):
        o_d = o_w * COUNT + (COUNT - 1 - i)
        m = m_n[:, None] & (o_d < D)[None, :]
        b_x = tl.load(p_x + o_n[:, None] * stride + o_d[None, :], m, other=0.0).to(tl.float32)
        if BITS == 5:
            if CHANNELS:
                o_group = tl.load(p_index + o_n, m_n, other=0).to(tl.int64)[:, None] * S + o_d[None, :]
            else:
                o_group = o_n[:, None] * S + (o_d // GROUP)[None, :]
            b_half = 0.5 * tl.load(p_step + o_group, m, other=0.0).to(tl.float32)
            b_code = 1 + (b_x > b_half).to(tl.int32) - (b_x < -b_half).to(tl.int32)
        else:
            b_code = (b_x >= 0).to(tl.int32)
        b_byte = b_byte * BASE + tl.where(m, b_code, 0)
    tl.store(p_codes + o_n[:, None] * W + o_w[None, :], b_byte.to(tl.uint8), m_w)


@triton.jit
def load_codes(p_codes, o_n, o_d, m, W, BITS: tl.constexpr):
    """Codes of tokens `o_n` (R,) and channels `o_d` (C,), float32 (R, C); W bytes in a row."""
    if BITS == 5:
        b_byte = tl.load(p_codes + o_n[:, None] * W + (o_d // 5)[None, :], m, other=0).to(tl.int32)
        o_digit = o_d % 5
        b_place = tl.where(o_digit == 1, 3, tl.where(o_digit == 2, 9, tl.where(o_digit == 3, 27, 81)))
        b_place = tl.where(o_digit == 0, 1, b_place)
        return (b_byte // b_place[None, :] % 3).to(tl.float32)
    o_bit = o_d * BITS
    p = p_codes + o_n[:, None] * W + (o_bit // 8)[None, :]
    b_code = tl.load(p, m, other=0).to(tl.int32)
    if BITS == 3:
        # A code may begin in one byte and end in the next.
        m_more = m & (o_bit // 8 + 1 < W)[None, :]
        b_code = b_code | (tl.load(p + 1, m_more, other=0).to(tl.int32) << 8)
    return ((b_code >> (o_bit % 8)[None, :]) & (2**BITS - 1)).to(tl.float32)


@triton.jit
def load_numbers(p_codes, p_step, p_low, o_group, o_n, o_d, m, W, BITS: tl.constexpr):
    """Numbers of tokens `o_n` (R,) and channels `o_d` (C,), whose steps are at `o_group` (R, C)."""
    b_code = load_codes(p_codes, o_n, o_d, m, W, BITS)
    b_step = tl.load(p_step + o_group, m, other=0.0).to(tl.float32)
    if BITS == 1:
        return b_code * b_step + b_step * -0.5
    if BITS == 5:
        return b_code * b_step - b_step
    return b_code * b_step + tl.load(p_low + o_group, m, other=0.0).to(tl.float32)


@triton.jit
def unpack_kernel(
    p_codes, p_step, p_low, p_index, p_out, N, D, W, S,
    GROUP: tl.constexpr, BITS: tl.constexpr, CHANNELS: tl.constexpr, R: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """R tokens, all channels. CHANNELS: groups per channel, `index` has each token's; S numbers in a row."""
    o_n = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    o_d = tl.arange(0, DP)
    m_n = o_n < N
    m = m_n[:, None] & (o_d < D)[None, :]
    # (R, DP)
    if CHANNELS:
        o_group = tl.load(p_index + o_n, m_n, other=0).to(tl.int64)[:, None] * S + o_d[None, :]
    else:
        o_group = o_n[:, None] * S + (o_d // GROUP)[None, :]
    b_out = load_numbers(p_codes, p_step, p_low, o_group, o_n, o_d, m, W, BITS)
    tl.store(p_out + o_n[:, None] * D + o_d[None, :], b_out.to(p_out.dtype.element_ty), m)


def packs_channels(x: torch.Tensor, group: int) -> bool:
    """Whether the kernel takes groups of so many tokens."""
    return group <= _MOST_TOKENS and x.stride(1) == 1


def pack_channels(x: torch.Tensor, bits: float, group: int, lengths: torch.Tensor) -> LowBit:
    """As the reference."""
    D = x.shape[1]
    first, count = group_rows(lengths, group)
    codes, step, low = _empty(x, bits, (len(first), D))
    with on_device(x.device):
        pack_channels_kernel[(len(first),)](
            x, first, count, codes, step, low, x.stride(0), D, codes.shape[1],
            BITS=int(bits), R=triton.next_power_of_2(group), DP=padded(D),
        )  # fmt: skip
    return LowBit(codes, step, low, bits, group, D, x.dtype, lengths)


def packs_tokens(x: torch.Tensor, group: int) -> bool:
    """Whether the kernel takes groups of so many channels: powers of two, or all channels."""
    return x.stride(1) == 1 and (group >= x.shape[1] or group & (group - 1) == 0)


def pack_tokens(x: torch.Tensor, bits: float, group: int) -> LowBit:
    """As the reference."""
    N, D = x.shape
    codes, step, low = _empty(x, bits, (N, triton.cdiv(D, group)))
    rows = _rows(D)
    with on_device(x.device):
        pack_tokens_kernel[(triton.cdiv(N, rows),)](
            x, codes, step, low, x.stride(0), N, D, codes.shape[1], step.shape[1],
            GROUP=min(group, padded(D)) if group < D else padded(D), BITS=int(bits), R=rows, DP=padded(D),
        )  # fmt: skip
    return LowBit(codes, step, low, bits, group, D, x.dtype)


def pack_symmetric(x: torch.Tensor, bits: float, group: int, lengths: torch.Tensor | None) -> LowBit:
    """As the reference, whose steps these are: sums in another order would round some otherwise."""
    x = x if x.stride(1) == 1 else x.contiguous()
    N, D = x.shape
    step, place = symmetric_steps(x, bits, group, lengths)
    codes = torch.empty(N, row_bytes(D, bits), dtype=torch.uint8, device=x.device)
    rows = _rows(D)
    with on_device(x.device):
        pack_symmetric_kernel[(triton.cdiv(N, rows),)](
            x, step, place, codes, x.stride(0), N, D, codes.shape[1], step.shape[1],
            GROUP=group, BITS=kernel_bits(bits), CHANNELS=lengths is not None, R=rows,
            WP=triton.next_power_of_2(codes.shape[1]),
        )  # fmt: skip
    return LowBit(codes, step, None, bits, group, D, x.dtype, lengths)


def kernel_bits(bits: float) -> int:
    """What kernels call a format."""
    return _TRITS if bits == TERNARY else int(bits)


def unpack(packed: LowBit) -> torch.Tensor:
    """As the reference."""
    N, D = len(packed.codes), packed.channels
    out = torch.empty(N, D, dtype=packed.dtype, device=packed.codes.device)
    per_channel, rows = packed.lengths is not None, _rows(D)
    index = packed.groups() if per_channel else packed.codes
    with on_device(out.device):
        unpack_kernel[(triton.cdiv(N, rows),)](
            packed.codes, packed.step, packed.step if packed.low is None else packed.low, index, out, N, D,
            packed.codes.shape[1], packed.step.shape[1], GROUP=packed.group,
            BITS=kernel_bits(packed.bits), CHANNELS=per_channel, R=rows,
            DP=padded(D),
        )  # fmt: skip
    return out


def padded(channels: int) -> int:
    """The next power of two; at least 8, a word of the longest."""
    return int(max(8, triton.next_power_of_2(channels)))


def _rows(channels: int) -> int:
    return max(1, _BLOCK // padded(channels))


def _empty(x: torch.Tensor, bits: float, shape: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    codes = torch.empty(len(x), row_bytes(x.shape[1], bits), dtype=torch.uint8, device=x.device)
    step, low = (torch.empty(shape, dtype=torch.float16, device=x.device) for _ in range(2))
    return codes, step, low
