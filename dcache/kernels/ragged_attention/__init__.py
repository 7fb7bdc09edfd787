"""`ragged_attention`: a few queries for each run of keys and values, and `merge` of such results.

A run is what one row and one KV head of a cache hold, and its queries are those of the heads that share it.
Runs of any lengths lie one after the other, nothing is padded. Keys and values of few bits are read as they
are.
"""

from __future__ import annotations

import torch

from dcache.errors import DcacheError
from dcache.kernels import launch
from dcache.kernels.lowbit import LowBit
from dcache.kernels.ragged_attention import few_bits, reference
from dcache.kernels.ragged_attention.fused import fused_runs
from dcache.kernels.ragged_attention.runs import Runs

__all__ = ["Runs", "fused_runs", "merge", "ragged_attention"]


def ragged_attention(
    query: torch.Tensor,
    keys: torch.Tensor | LowBit,
    values: torch.Tensor | LowBit,
    lengths: torch.Tensor | Runs,
    scale: float,
    *,
    softcap: float | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of each run's queries on its tokens.

    Args:
        query: `[R, G, D]`, the queries of each run.
        keys: `[N, D]`, or packed with these lengths per channel.
        values: `[N, D_v]`, or packed per token.
        lengths: int64 `[R]`, tokens of each run, in order; they sum to N. `Runs` where they are read again
            and again: what follows from them is made once.
        scale: factor of the dot products.
        softcap: logits become `softcap * tanh(logits / softcap)`; None leaves them.
        bias: float32 `[N]`, added to each token's logits after that.

    Returns:
        Outputs `[R, G, D_v]` and log-sum-exps of the logits `[R, G]`, float32 (float64 for float64 queries);
        0 and -inf for runs without a token.

    Raises:
        DcacheError: shapes do not fit.
    """
    runs = lengths if isinstance(lengths, Runs) else Runs(lengths)
    _check(query, keys, values, runs.lengths, bias)
    plain = [t.step if isinstance(t, LowBit) else t for t in (keys, values)]
    if launch.possible(query.device) and launch.taken("ragged_attention", query, *plain, bias):
        from dcache.kernels.ragged_attention import triton

        return triton.ragged_attention(query, keys, values, runs, scale, softcap, bias)
    if isinstance(keys, LowBit) or isinstance(values, LowBit):
        return few_bits.few_bits(query, keys, values, runs, scale, softcap, bias)
    return reference.ragged_attention(query, keys, values, runs, scale, softcap, bias)


def merge(outs: torch.Tensor, lses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention on all parts from that on each: exact, as if their logits had been normalised together.

    Args:
        outs: `[P, R, G, D]`, each part's outputs.
        lses: `[P, R, G]`, each part's log-sum-exps; -inf where a part has no token.

    Returns:
        Outputs `[R, G, D]` and log-sum-exps `[R, G]`.
    """
    if launch.possible(outs.device) and launch.taken("merge", outs, lses):
        from dcache.kernels.ragged_attention import triton

        return triton.merge(outs, lses)
    return reference.merge(outs, lses)


def _check(
    query: torch.Tensor,
    keys: torch.Tensor | LowBit,
    values: torch.Tensor | LowBit,
    lengths: torch.Tensor,
    bias: torch.Tensor | None,
) -> None:
    (N, D), (M, _) = (_shape(t) for t in (keys, values))
    if query.ndim != 3 or (len(query), query.shape[2]) != (len(lengths), D) or N != M:
        raise DcacheError(
            f"ragged_attention: expected queries [{len(lengths)}, G, {D}] and as many values as keys, got "
            f"queries {tuple(query.shape)}, {N} keys and {M} values"
        )
    if bias is not None and bias.shape != (N,):
        raise DcacheError(f"ragged_attention: expected a bias [{N}], got {tuple(bias.shape)}")


def _shape(t: torch.Tensor | LowBit) -> tuple[int, int]:
    return (len(t.codes), t.channels) if isinstance(t, LowBit) else (t.shape[0], t.shape[1])
