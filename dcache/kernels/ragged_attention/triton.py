"""`ragged_attention` and `merge` in Triton.

Runs are cut into pieces of equal length, one for each program, so that runs of any lengths keep a GPU evenly
busy (LeanAttention's stream-K split). A second, small kernel merges each run's pieces in order, without
atomic additions, so that equal inputs give equal bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dcache.kernels.launch import on_device
from dcache.kernels.lowbit.format import LowBit
from dcache.kernels.lowbit.triton import kernel_bits, load_numbers
from dcache.kernels.ragged_attention.runs import Runs

# Tokens in a program's block, and in its piece at least.
_BLOCK = 32
_LEAST = 128
# Programs that fill a large GPU several times.
_PROGRAMS = 1024


@triton.jit
def _load(
    p, p_step, p_low, p_index, o_n, m_n, stride, W, S, C, first, group_first, o_c,
    BITS: tl.constexpr, GROUP: tl.constexpr, CHANNELS: tl.constexpr, INDEXED: tl.constexpr,
):  # fmt: skip
    """Keys or values of tokens `o_n` (BN,), channels `o_c`, float32 (BN, C): plain, or from their codes."""
    m = m_n[:, None] & (o_c < C)[None, :]
    if BITS == 0:
        return tl.load(p + o_n[:, None] * stride + o_c[None, :], m, other=0.0).to(tl.float32)
    if not CHANNELS:
        o_group = o_n[:, None] * S + (o_c // GROUP)[None, :]
    elif INDEXED:
        o_group = tl.load(p_index + o_n, m_n, other=0).to(tl.int64)[:, None] * S + o_c[None, :]
    else:
        o_group = (group_first + (o_n - first) // GROUP)[:, None] * S + o_c[None, :]
    return load_numbers(p, p_step, p_low, o_group, o_n, o_c, m, W, BITS)


@triton.jit
def ragged_attention_kernel(
    p_q, p_k, p_v, p_bias, p_run, p_piece, p_count, p_first, p_groups,
    p_k_step, p_k_low, p_k_index, p_v_step, p_v_low, p_out, p_lse,
    scale, softcap, stride_k, stride_v, G, D, DV, KW, VW, KS, VS,
    K_BITS: tl.constexpr, K_GROUP: tl.constexpr, K_INDEXED: tl.constexpr, V_BITS: tl.constexpr,
    V_GROUP: tl.constexpr, CAP: tl.constexpr,
    GP: tl.constexpr, DP: tl.constexpr, DVP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """One piece of one run: `count` tokens from `piece` on, all of the run's queries."""
    i_p = tl.program_id(0).to(tl.int64)
    i_r = tl.load(p_run + i_p)
    start, count = tl.load(p_piece + i_p), tl.load(p_count + i_p)
    first, group_first = tl.load(p_first + i_r), tl.load(p_groups + i_r)
    o_g, o_d, o_v, o_b = tl.arange(0, GP), tl.arange(0, DP), tl.arange(0, DVP), tl.arange(0, BN)
    m_g = o_g < G
    # (GP, DP)
    m_q = m_g[:, None] & (o_d < D)[None, :]
    b_q = tl.load(p_q + (i_r * G + o_g)[:, None] * D + o_d[None, :], m_q, other=0.0)
    dtype = b_q.dtype
    b_m = tl.full([GP], float("-inf"), tl.float32)
    b_l = tl.zeros([GP], tl.float32)
    b_o = tl.zeros([GP, DVP], tl.float32)
    for i in range(0, count, BN):
        m_n = i + o_b < count
        o_n = start + i + o_b
        # (BN, DP)
        b_k = _load(
            p_k, p_k_step, p_k_low, p_k_index, o_n, m_n, stride_k, KW, KS, D, first, group_first, o_d,
            K_BITS, K_GROUP, True, K_INDEXED,
        )  # fmt: skip
        b_x = tl.dot(b_q, tl.trans(b_k.to(dtype)), input_precision="ieee") * scale
        if CAP:
            b_x = softcap * (2.0 / (1.0 + tl.exp(-2.0 * b_x / softcap)) - 1.0)
        if p_bias is not None:
            b_x += tl.load(p_bias + o_n, m_n, other=0.0)[None, :]
        b_x = tl.where(m_n[None, :], b_x, float("-inf"))
        b_new = tl.maximum(b_m, tl.max(b_x, 1))
        # A bias of -inf may leave all tokens so far without weight.
        b_safe = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_p = tl.exp(b_x - b_safe[:, None])
        b_decay = tl.exp(b_m - b_safe)
        # (BN, DVP)
        b_v = _load(
            p_v, p_v_step, p_v_low, p_v, o_n, m_n, stride_v, VW, VS, DV, first, group_first, o_v,
            V_BITS, V_GROUP, False, False,
        )  # fmt: skip
        b_l = b_l * b_decay + tl.sum(b_p, 1)
        b_o = b_o * b_decay[:, None] + tl.dot(b_p.to(dtype), b_v.to(dtype), input_precision="ieee")
        b_m = b_new
    b_some = b_l > 0
    b_l = tl.where(b_some, b_l, 1.0)
    o_row = i_p * G + o_g
    m_v = m_g[:, None] & (o_v < DV)[None, :]
    tl.store(p_out + o_row[:, None] * DV + o_v[None, :], b_o / b_l[:, None], m_v)
    tl.store(p_lse + o_row, tl.where(b_some, b_m + tl.log(b_l), float("-inf")), m_g)


@triton.jit
def merge_kernel(
    p_outs, p_lses, p_first, p_count, p_out, p_lse, step, G, D, GP: tl.constexpr, DP: tl.constexpr
):
    """One run: its parts are rows first, first + step, ... of outs (parts, G, D) and lses (parts, G)."""
    i_r = tl.program_id(0).to(tl.int64)
    first, count = tl.load(p_first + i_r), tl.load(p_count + i_r)
    o_g, o_d = tl.arange(0, GP), tl.arange(0, DP)
    m_g = o_g < G
    m = m_g[:, None] & (o_d < D)[None, :]
    b_m = tl.full([GP], float("-inf"), tl.float32)
    b_l = tl.zeros([GP], tl.float32)
    b_o = tl.zeros([GP, DP], tl.float32)
    for i in range(count):
        o_row = (first + i * step) * G + o_g
        b_lse = tl.load(p_lses + o_row, m_g, other=float("-inf"))
        b_part = tl.load(p_outs + o_row[:, None] * D + o_d[None, :], m, other=0.0)
        b_new = tl.maximum(b_m, b_lse)
        b_safe = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_decay, b_weight = tl.exp(b_m - b_safe), tl.exp(b_lse - b_safe)
        b_l = b_l * b_decay + b_weight
        b_o = b_o * b_decay[:, None] + b_part * b_weight[:, None]
        b_m = b_new
    b_some = b_l > 0
    b_l = tl.where(b_some, b_l, 1.0)
    o_row = i_r * G + o_g
    tl.store(p_out + o_row[:, None] * D + o_d[None, :], b_o / b_l[:, None], m)
    tl.store(p_lse + o_row, tl.where(b_some, b_m + tl.log(b_l), float("-inf")), m_g)


def ragged_attention(
    query: torch.Tensor,
    keys: torch.Tensor | LowBit,
    values: torch.Tensor | LowBit,
    runs: Runs,
    scale: float,
    softcap: float | None,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference; the pieces' products are rounded to the query's dtype."""
    _, G, D = query.shape
    query = query.contiguous()
    pieces = runs.pieces(_piece(runs.total))
    count = len(pieces.run)
    k, v = _Operand(keys), _Operand(values)
    groups = _starts(-(-runs.lengths // k.group)) if k.bits else runs.starts
    DV = values.channels if isinstance(values, LowBit) else values.shape[1]
    outs = torch.empty(count, G, DV, dtype=torch.float32, device=query.device)
    lses = torch.empty(count, G, dtype=torch.float32, device=query.device)
    if count:
        with on_device(query.device):
            ragged_attention_kernel[(count,)](
                query, k.data, v.data, None if bias is None else bias.float().contiguous(),
                pieces.run, pieces.start, pieces.count, runs.starts, groups,
                k.step, k.low, k.index, v.step, v.low, outs, lses,
                scale, softcap or 0.0, k.data.stride(0), v.data.stride(0), G, D, DV,
                k.data.shape[1], v.data.shape[1], k.step.shape[1], v.step.shape[1],
                K_BITS=k.bits, K_GROUP=k.group, K_INDEXED=k.indexed, V_BITS=v.bits, V_GROUP=v.group,
                CAP=softcap is not None, GP=_padded(G), DP=_padded(D), DVP=_padded(DV), BN=_BLOCK,
            )  # fmt: skip
    return _merged(outs, lses, _starts(pieces.of_run), pieces.of_run, 1)


def merge(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference, for outs `[P, R, G, D]` and lses `[P, R, G]`."""
    P, R, G, D = outs.shape
    first = torch.arange(R, device=outs.device)
    outs, lses = outs.float().contiguous(), lses.float().contiguous()
    return _merged(outs.view(P * R, G, D), lses.view(P * R, G), first, torch.full_like(first, P), R)


def _merged(
    outs: torch.Tensor, lses: torch.Tensor, first: torch.Tensor, count: torch.Tensor, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each run's parts, `count` of them from row `first` on, `step` apart."""
    R, G, D = len(first), outs.shape[1], outs.shape[2]
    out, lse = outs.new_empty(R, G, D), lses.new_empty(R, G)
    with on_device(outs.device):
        merge_kernel[(R,)](
            outs, lses, first, count, out, lse, step, G, D,
            GP=int(triton.next_power_of_2(G)), DP=int(triton.next_power_of_2(D)),
        )  # fmt: skip
    return out, lse


class _Operand:
    """Keys or values as the kernel's arguments."""

    def __init__(self, given: torch.Tensor | LowBit) -> None:
        if isinstance(given, LowBit):
            self.data, self.step = given.codes, given.step
            self.low = given.step if given.low is None else given.low
            self.bits, self.group = kernel_bits(given.bits), given.group
            self.indexed = given.index is not None
            self.index = given.codes if given.index is None else given.index
        else:
            self.data = given if given.stride(1) == 1 else given.contiguous()
            self.step = self.low = self.index = self.data
            self.bits, self.group, self.indexed = 0, 1, False


def _piece(total: int) -> int:
    """Tokens in a piece: as many as give enough programs, in whole blocks."""
    share = int(triton.cdiv(total, _PROGRAMS))
    return max(_LEAST, int(triton.cdiv(share, _BLOCK)) * _BLOCK)


def _padded(size: int) -> int:
    # `tl.dot` takes no dimension below 16.
    return max(16, int(triton.next_power_of_2(size)))


def _starts(counts: torch.Tensor) -> torch.Tensor:
    return counts.cumsum(0) - counts
