"""`column_stats` in Triton: one pass for the queries' log-sum-exps, one for the columns."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from dcache.kernels.launch import on_device
from dcache.kernels.lowbit.format import group_rows

# Queries and keys in a block.
_QUERIES = 16
_KEYS = 64


@triton.jit
def _logits(
    p_q, p_k, p_bias, p_at, p_pos, i_r, o_q, o_n, m_q, m_n, stride, scale, softcap, Q, D,
    CAP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """Logits of queries `o_q` of run `i_r` and keys `o_n`, float32 (BQ, BN); -inf where none is seen."""
    o_d = tl.arange(0, DP)
    m_d = (o_d < D)[None, :]
    # (BQ, DP), (BN, DP)
    b_q = tl.load(p_q + (i_r * Q + o_q)[:, None] * D + o_d[None, :], m_q[:, None] & m_d, other=0.0)
    b_k = tl.load(p_k + o_n[:, None] * stride + o_d[None, :], m_n[:, None] & m_d, other=0.0)
    b_x = tl.dot(b_q, tl.trans(b_k.to(b_q.dtype)), input_precision="ieee") * scale
    if CAP:
        b_x = softcap * (2.0 / (1.0 + tl.exp(-2.0 * b_x / softcap)) - 1.0)
    if p_bias is not None:
        b_x += tl.load(p_bias + o_n, m_n, other=0.0)[None, :]
    m = m_q[:, None] & m_n[None, :]
    if p_at is not None:
        b_at = tl.load(p_at + i_r * Q + o_q, m_q, other=-1)
        b_pos = tl.load(p_pos + o_n, m_n, other=0)
        m = m & (b_pos[None, :] <= b_at[:, None])
    return tl.where(m, b_x, float("-inf"))


@triton.jit
def query_sums_kernel(
    p_q, p_k, p_bias, p_sinks, p_at, p_pos, p_first, p_count, p_lse, stride, scale, softcap, Q, D, q_blocks,
    CAP: tl.constexpr, DP: tl.constexpr, BQ: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp over all keys of BQ queries of one run."""
    i_r = (tl.program_id(0) // q_blocks).to(tl.int64)
    o_q = (tl.program_id(0) % q_blocks) * BQ + tl.arange(0, BQ)
    m_q = o_q < Q
    first, count = tl.load(p_first + i_r), tl.load(p_count + i_r)
    o_b = tl.arange(0, BN)
    b_m = tl.full([BQ], float("-inf"), tl.float32)
    b_l = tl.zeros([BQ], tl.float32)
    if p_sinks is not None:
        b_m = tl.load(p_sinks + i_r * Q + o_q, m_q, other=float("-inf")).to(tl.float32)
        b_l = tl.where(b_m == float("-inf"), 0.0, 1.0)
    for i in range(0, count, BN):
        b_x = _logits(
            p_q, p_k, p_bias, p_at, p_pos, i_r, o_q, first + i + o_b, m_q, i + o_b < count, stride, scale,
            softcap, Q, D, CAP, DP,
        )  # fmt: skip
        b_new = tl.maximum(b_m, tl.max(b_x, 1))
        b_safe = tl.where(b_new == float("-inf"), 0.0, b_new)
        b_l = b_l * tl.exp(b_m - b_safe) + tl.sum(tl.exp(b_x - b_safe[:, None]), 1)
        b_m = b_new
    b_some = b_l > 0
    tl.store(p_lse + i_r * Q + o_q, tl.where(b_some, b_m + tl.log(tl.where(b_some, b_l, 1.0)), 0.0), m_q)


@triton.jit
def column_stats_kernel(
    p_q, p_k, p_bias, p_at, p_pos, p_run, p_piece, p_count, p_lse, p_sums, p_maxima,
    stride, scale, softcap, Q, D,
    CAP: tl.constexpr, DP: tl.constexpr, BQ: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Sums and maxima over all queries of at most BN keys of one run."""
    i_p = tl.program_id(0).to(tl.int64)
    i_r = tl.load(p_run + i_p)
    o_b = tl.arange(0, BN)
    o_n, m_n = tl.load(p_piece + i_p) + o_b, o_b < tl.load(p_count + i_p)
    b_sum = tl.zeros([BN], tl.float32)
    b_most = tl.zeros([BN], tl.float32)
    for i in range(0, Q, BQ):
        o_q = i + tl.arange(0, BQ)
        m_q = o_q < Q
        b_x = _logits(
            p_q, p_k, p_bias, p_at, p_pos, i_r, o_q, o_n, m_q, m_n, stride, scale, softcap, Q, D, CAP, DP
        )  # fmt: skip
        b_lse = tl.load(p_lse + i_r * Q + o_q, m_q, other=0.0)
        b_weight = tl.exp(b_x - b_lse[:, None])
        b_sum += tl.sum(b_weight, 0)
        b_most = tl.maximum(b_most, tl.max(b_weight, 0))
    tl.store(p_sums + o_n, b_sum, m_n)
    tl.store(p_maxima + o_n, b_most, m_n)


def column_stats(
    query: torch.Tensor,
    keys: torch.Tensor,
    lengths: torch.Tensor,
    scale: float,
    softcap: float | None,
    bias: torch.Tensor | None,
    sinks: torch.Tensor | None,
    positions: tuple[torch.Tensor, torch.Tensor] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As the reference."""
    R, Q, D = query.shape
    query = query.contiguous()
    keys = keys if keys.stride(1) == 1 else keys.contiguous()
    at, pos = (None, None) if positions is None else (t.contiguous() for t in positions)
    bias, sinks = (None if t is None else t.float().contiguous() for t in (bias, sinks))
    lse = torch.empty(R, Q, dtype=torch.float32, device=query.device)
    sums, maxima = (torch.empty(len(keys), dtype=torch.float32, device=keys.device) for _ in range(2))
    first, (start, count) = lengths.cumsum(0) - lengths, group_rows(lengths, _KEYS)
    run = torch.arange(R, device=lengths.device).repeat_interleave(-(-lengths // _KEYS))
    sizes = {"CAP": softcap is not None, "DP": max(16, int(triton.next_power_of_2(D)))}
    sizes |= {"BQ": _QUERIES, "BN": _KEYS}
    cap, q_blocks = softcap or 0.0, int(triton.cdiv(Q, _QUERIES))
    with on_device(query.device):
        query_sums_kernel[(R * q_blocks,)](
            query, keys, bias, sinks, at, pos, first, lengths, lse, keys.stride(0), scale, cap, Q, D,
            q_blocks, **sizes,
        )  # fmt: skip
        column_stats_kernel[(len(run),)](
            query, keys, bias, at, pos, run, start, count, lse, sums, maxima, keys.stride(0), scale, cap,
            Q, D, **sizes,
        )  # fmt: skip
    return sums, maxima
