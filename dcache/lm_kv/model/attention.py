"""Attention over the parts of a cache: packed segments, the dense tail, and the tokens of this call.

`attend` is the specification, exact in float32: logits of all parts are normalised together. Where the
weights are not needed, each part is attended to by itself and the results are merged by their log-sum-exps.
Either way no part's keys or values are copied to lie beside another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from dcache.kernels import flash
from dcache.lm_kv.storage.parts import DensePart, Part

# Queries are taken in blocks with at most this many logits.
LOGITS = 2**24


@dataclass(frozen=True)
class Logits:
    """How a layer makes logits of q and k.

    Attributes:
        scaling: factor of the dot product.
        softcap: logits become `softcap * tanh(logits / softcap)`; None leaves them.
        sinks: `[H]`, a logit for each query head that takes mass and gives nothing; None where there is none.
    """

    scaling: float
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether logits are scaled products and nothing else takes mass."""
        return self.softcap is None and self.sinks is None

    def of(self, products: torch.Tensor) -> torch.Tensor:
        """Logits of dot products of any shape."""
        return self.capped(products * self.scaling)

    def capped(self, products: torch.Tensor) -> torch.Tensor:
        """Logits of dot products with queries that are scaled already."""
        return products if self.softcap is None else self.softcap * torch.tanh(products / self.softcap)

    def scaled(self, query: torch.Tensor) -> torch.Tensor:
        """Queries in float32 or better, times `scaling`: one small product instead of one for each part."""
        return _wide(query) * self.scaling

    def softmax(self, logits: torch.Tensor) -> torch.Tensor:
        """Weights of logits `[B, h, G, S, T]`; they sum to one with the sinks' share."""
        if self.sinks is None:
            return logits.softmax(-1)
        rows, heads, groups, queries, _ = logits.shape
        sinks = self.sinks.to(logits.dtype).view(1, heads, groups, 1, 1).expand(rows, -1, -1, queries, 1)
        return torch.cat([logits, sinks], -1).softmax(-1)[..., :-1]


@dataclass(frozen=True)
class Fresh:
    """Which tokens of this call may be seen by which of its queries.

    Attributes:
        valid: bool `[B, S]`, False at pads; None where none is a pad.
        visible: bool `[B, S, n]` (query, key), n columns of the last part; None for causal attention, where
            n is S.
    """

    valid: torch.Tensor | None = None
    visible: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether attention is causal and no token is a pad."""
        return self.valid is None and self.visible is None

    def allowed(self, queries: int, device: torch.device) -> torch.Tensor | None:
        """Bool `[B or 1, S, n]`, None where everything may be seen.

        A pad sees itself, so that every query has a key and its output is finite.
        """
        if queries == 1 and self.visible is None:
            return None
        causal = torch.ones(queries, queries, dtype=torch.bool, device=device).tril()
        seen = causal[None] if self.visible is None else self.visible
        if self.valid is None:
            return seen
        return (seen & self.valid[:, None]) | torch.eye(queries, dtype=torch.bool, device=device)


@dataclass(frozen=True)
class Attended:
    """The result of attention.

    Attributes:
        output: `[B, S, H, d_v]` in the query's dtype.
        columns: float32 `[B, h, columns of all parts]`, weights that each column got from this call's
            queries; None where they were not asked for.
    """

    output: torch.Tensor
    columns: torch.Tensor | None = None


def attend(
    query: torch.Tensor, parts: Sequence[Part], logits: Logits, fresh: Fresh, statistic: str | None = None
) -> Attended:
    """Attention of queries on all parts; the last part is this call's own tokens.

    Args:
        query: `[B, H, S, d]`.
        parts: what there is to see; the last has S columns, or as many as `fresh.visible`.
        logits: how logits are made.
        fresh: what may be seen of the last part.
        statistic: "sum": columns get the mean over a group's heads of the sum over queries; "max": the
            largest weight of all queries and heads of the group; None: nothing is gathered. Pads give
            nothing.
    """
    rows, size = query.shape[0], query.shape[2]
    folded = query.reshape(rows, _heads(parts[-1]), -1, size, query.shape[3])
    allowed = fresh.allowed(size, query.device)
    total = sum(part.columns for part in parts)
    block = max(1, LOGITS // max(1, rows * query.shape[1] * total))
    outputs, gathered = [], []
    for start in range(0, size, block):
        some = slice(start, min(start + block, size))
        weights = _weights(
            folded[:, :, :, some], parts, logits, None if allowed is None else allowed[:, some]
        )
        outputs.append(_combine(weights, parts))
        if statistic is not None:
            counted = None if fresh.valid is None else fresh.valid[:, some]
            gathered.append(_column_statistic(weights, counted, statistic))
    output = torch.cat(outputs, 3) if len(outputs) > 1 else outputs[0]
    columns = None
    if statistic is not None:
        stacked = torch.stack(gathered)
        columns = stacked.sum(0) if statistic == "sum" else stacked.amax(0)
    output = output.flatten(1, 2).transpose(1, 2).to(query.dtype).contiguous()
    return Attended(output, columns)


def attend_one(query: torch.Tensor, parts: Sequence[Part], logits: Logits, statistic: str | None) -> Attended:
    """Attention of one query `[B, H, 1, d]`, whose own token is in the last part; as `attend` otherwise."""
    rows, heads, _, size = query.shape
    if statistic is not None and logits.sinks is not None:
        return attend(query, parts, logits, Fresh(), statistic)
    folded = query.reshape(rows, _heads(parts[-1]), -1, size)
    alone, columns = parts[-1], None
    if statistic is None and len(parts) == 1 and logits.plain and query.is_cuda:
        # Nothing to merge, so no log-sum-exp is needed, and torch reads the tail as it lies.
        output = _by_torch(folded, alone, logits)
    elif statistic is None:
        output = _apart(folded, parts, logits)
    else:
        weights = _columns(folded, parts, logits).softmax(-1)
        output = _sums(weights, parts)
        columns = weights.mean(2) if statistic == "sum" else weights.amax(2)
    return Attended(output.to(query.dtype).view(rows, 1, heads, -1), columns)


def attend_some(query: torch.Tensor, parts: Sequence[Part], logits: Logits, fresh: Fresh) -> torch.Tensor:
    """Attention of several queries `[B, H, S, d]`, as `attend`'s output without a statistic."""
    last = parts[-1]
    if not isinstance(last, DensePart) or logits.softcap is not None:
        return attend(query, parts, logits, fresh).output
    if logits.plain and query.shape[2] > 1 and not any(part.columns for part in parts[:-1]):
        return attend_fresh(query, last, logits, fresh)
    if not flash.possible(query, last.keys, last.values):
        return attend(query, parts, logits, fresh).output
    rows, heads, count, size = query.shape
    allowed = None if fresh.plain else fresh.allowed(count, query.device)
    added = None if allowed is None else torch.where(allowed, 0.0, float("-inf"))[:, None].to(query.dtype)
    causal = fresh.plain and count > 1
    out, lse = flash.flash(query, last.keys, last.values, logits.scaling, added, causal)
    folded = query.reshape(rows, last.keys.shape[1], -1, size)
    newest = (out.reshape(folded.shape), lse.reshape(folded.shape[:3]))
    output = _apart(folded, parts[:-1], logits, newest)
    return output.to(query.dtype).view(rows, heads, count, -1).transpose(1, 2).contiguous()


def attend_fresh(query: torch.Tensor, part: DensePart, logits: Logits, fresh: Fresh) -> torch.Tensor:
    """Attention of a first call on its own tokens by torch's fused attention; `[B, S, H, d_v]`.

    It has no soft cap and no sinks: `attend` has.
    """
    groups = query.shape[1] // part.keys.shape[1]
    keys, values = (x.repeat_interleave(groups, 1) if groups > 1 else x for x in (part.keys, part.values))
    allowed = None if fresh.plain else fresh.allowed(query.shape[2], query.device)
    mask = None if allowed is None else allowed[:, None]
    output = F.scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=mask,
        is_causal=fresh.plain and query.shape[2] > 1,
        scale=logits.scaling,
    )
    return output.transpose(1, 2).contiguous()


def _by_torch(query: torch.Tensor, part: Part, logits: Logits) -> torch.Tensor:
    """Torch's attention of queries `[B, h, G, d]` on a dense part."""
    if not isinstance(part, DensePart):
        raise TypeError("the last part must be dense")
    mask = None if part.valid is None else part.valid[:, :, None]
    return F.scaled_dot_product_attention(query, part.keys, part.values, attn_mask=mask, scale=logits.scaling)


def _heads(part: Part) -> int:
    if not isinstance(part, DensePart):
        raise TypeError("the last part must be dense")
    return part.keys.shape[1]


def _apart(
    query: torch.Tensor,
    parts: Sequence[Part],
    logits: Logits,
    newest: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Outputs `[B, h, R, d_v]` of queries `[B, h, R, d]`: each part by itself, then merged.

    Args:
        query: the queries.
        parts: where all queries see the same.
        logits: how logits are made.
        newest: outputs and log-sum-exps of what is no part; None where the last part has the newest tokens.
    """
    results = [part.attend(query, logits.scaling, logits.softcap) for part in parts if part.columns]
    # What has the query's own token comes first: its log-sum-exp is finite, so no difference is NaN.
    out, lse = results.pop() if newest is None else newest
    for left, (older, weight) in zip(range(len(results), 0, -1), results, strict=True):
        share = torch.sigmoid(weight - lse)[..., None]
        out = torch.lerp(_wide(out), _wide(older), share)
        if left > 1 or logits.sinks is not None:
            lse = torch.logaddexp(lse, weight)
    if logits.sinks is None:
        return out
    sinks = logits.sinks.to(lse.dtype).view(1, query.shape[1], -1, 1)
    share = (lse.unflatten(2, (sinks.shape[2], -1)) - sinks).sigmoid()
    return _wide(out) * share.flatten(2)[..., None]


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _columns(query: torch.Tensor, parts: Sequence[Part], logits: Logits) -> torch.Tensor:
    """Logits `[B, h, R, T]` of queries `[B, h, R, d]` and the columns of all parts, in float32 or better."""
    scaled = logits.scaled(query)
    columns = [part.mask(logits.capped(part.products(scaled))) for part in parts]
    return torch.cat(columns, -1) if len(columns) > 1 else columns[0]


def _weights(
    query: torch.Tensor, parts: Sequence[Part], logits: Logits, allowed: torch.Tensor | None
) -> torch.Tensor:
    """Weights `[B, h, G, S, T]` of queries `[B, h, G, S, d]` over all columns, in float32 or better."""
    joined = _columns(query.flatten(2, 3), parts, logits).view(*query.shape[:4], -1)
    if allowed is not None:
        fresh = joined[..., joined.shape[-1] - parts[-1].columns :]
        fresh.masked_fill_(~allowed[:, None, None], float("-inf"))
    return logits.softmax(joined)


def _combine(weights: torch.Tensor, parts: Sequence[Part]) -> torch.Tensor:
    """Weighted sums of all parts' values, `[B, h, G, S, d_v]`, by weights `[B, h, G, S, T]`."""
    return _sums(weights.flatten(2, 3), parts).view(*weights.shape[:4], -1)


def _sums(weights: torch.Tensor, parts: Sequence[Part]) -> torch.Tensor:
    """Weighted sums of all parts' values, `[B, h, R, d_v]`, by weights `[B, h, R, T]`."""
    pieces = weights.split([part.columns for part in parts], -1)
    sums = [part.combine(piece) for part, piece in zip(parts, pieces, strict=True) if part.columns]
    total = sums[0]
    for more in sums[1:]:
        total = total + more
    return total


def _column_statistic(weights: torch.Tensor, counted: torch.Tensor | None, statistic: str) -> torch.Tensor:
    """`[B, h, T]` of weights `[B, h, G, S, T]`; queries that do not count give nothing."""
    if counted is not None:
        weights = weights * counted[:, None, None, :, None]
    return weights.mean(2).sum(2) if statistic == "sum" else weights.amax((2, 3))
