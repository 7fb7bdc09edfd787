"""MiniCache: two neighbouring layers share the direction of each token, and keep its two lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch.nn import functional as F

from dcache.lm_kv.codecs.codec import DeviceCodec
from dcache.lm_kv.codecs.jointly import WholeRows, rows_taken
from dcache.util.checks import check_number, check_whole

# Below this sine of the angle, directions are interpolated in a straight line.
PARALLEL = 1e-4


@dataclass(frozen=True, eq=False)
class Directions:
    """Keys or values of one layer, runs of `counts` tokens in every head.

    Attributes:
        direction: `[M, d]` of length 1, of the tokens that are merged; both layers have it.
        whole: bool `[N]`, which tokens are not; both layers have it.
        norms: float32 `[M]`, the layer's lengths.
        exact: `[N - M, d]`, the layer's other tokens as they came.
        counts: int64, tokens of each row it was made of.
        rows: int64 `[rows]`, which of them each row is.
    """

    direction: torch.Tensor
    whole: torch.Tensor
    norms: torch.Tensor
    exact: torch.Tensor
    counts: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True)
class SharedDirectionsCodec(WholeRows, DeviceCodec):
    """Pairs of layers by spherical interpolation; pairs of tokens that are least alike stay as they came.

    Attributes:
        t: where between the two directions the shared one lies, from 0 to 1.
        gamma: tokens stay whose cosine is below the least one of the run plus this share of the range.
        start: share of the layers, from the first on, that stay as they are.
        residual: newest tokens of a row that stay as they came.

    Raises:
        DcacheError: a field is outside its range.
    """

    t: float
    gamma: float
    start: float
    residual: int
    name: ClassVar[str] = "minicache"
    shared: ClassVar[frozenset[str]] = frozenset({"direction", "whole"})

    def __post_init__(self) -> None:
        """Check every field's range."""
        for name in ("t", "gamma", "start"):
            check_number(name, getattr(self, name), 0, 1)
        check_whole("residual", self.residual, 0)

    def groups(self, layers: int) -> list[tuple[int, ...]]:
        """Pairs, from the layer at `start` on; one that is left over stays as it is."""
        first = int(layers * self.start)
        return [(place, place + 1) for place in range(first, layers - 1, 2)]

    def encode_group(
        self,
        codecs: Sequence[Self],
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        lengths: torch.Tensor,
        first: torch.Tensor,
        inputs: Sequence[torch.Tensor] = (),
    ) -> list[tuple[Directions, Directions]]:
        """Both layers' keys and values."""
        pairs = (self._merged(states[0], states[1], lengths) for states in (keys, values))
        return list(zip(*pairs, strict=True))

    def decode(self, encoded: Directions) -> torch.Tensor:
        """Directions times lengths, and what stayed as it came."""
        whole, exact = encoded.whole, encoded.exact
        tokens = exact.new_empty(len(whole), exact.shape[1])
        tokens[whole] = exact
        merged = encoded.direction.to(encoded.norms.dtype) * encoded.norms[:, None]
        tokens[~whole] = merged.to(tokens.dtype)
        sizes = encoded.counts * (len(whole) // max(1, int(encoded.counts.sum())))
        pieces = tokens.split(sizes.tolist())
        return torch.cat([pieces[row] for row in encoded.rows.tolist()])

    def take(self, encoded: Directions, rows: torch.Tensor, lengths: torch.Tensor) -> Directions:
        """Whole rows; directions stay where they are, so that both layers go on sharing them."""
        return replace(encoded, rows=rows_taken(encoded.counts, encoded.rows, rows, lengths))

    def tensors(self, encoded: Directions) -> dict[str, torch.Tensor]:
        """Every tensor that is held."""
        return dict(vars(encoded))

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> Directions:
        """Keys or values."""
        return Directions(**tensors)

    def _merged(
        self, first: torch.Tensor, second: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[Directions, Directions]:
        precise = torch.promote_types(first.dtype, torch.float32)
        states = [first.to(precise), second.to(precise)]
        units = [F.normalize(x, dim=-1) for x in states]
        cosine = (units[0] * units[1]).sum(-1).clamp(-1.0, 1.0)
        whole = _unlike(cosine, lengths, self.gamma)
        direction = _between(units[0], units[1], cosine, self.t)[~whole].to(first.dtype)
        counts, rows = lengths[:, 0], torch.arange(len(lengths), device=lengths.device)
        parts = [
            Directions(direction, whole, x.norm(dim=-1)[~whole], exact[whole], counts.clone(), rows.clone())
            for x, exact in zip(states, (first, second), strict=True)
        ]
        return parts[0], parts[1]


def _unlike(cosine: torch.Tensor, lengths: torch.Tensor, gamma: float) -> torch.Tensor:
    """Bool `[N]`: tokens whose cosine `[N]` is among the lowest of their run."""
    pieces = cosine.split(lengths.flatten().tolist())
    limits = [c.amin() + gamma * (c.amax() - c.amin()) if len(c) else c.sum() for c in pieces]
    return cosine < torch.stack(limits).repeat_interleave(lengths.flatten())


def _between(a: torch.Tensor, b: torch.Tensor, cosine: torch.Tensor, t: float) -> torch.Tensor:
    """sin((1-t) w) / sin w a + sin(t w) / sin w b, at the angle w between the directions a and b `[N, d]`."""
    angle = cosine.acos()[:, None]
    sine = angle.sin()
    near = sine < PARALLEL
    scale = sine.clamp_min(PARALLEL)
    left = torch.where(near, torch.full_like(sine, 1 - t), ((1 - t) * angle).sin() / scale)
    right = torch.where(near, torch.full_like(sine, t), (t * angle).sin() / scale)
    return F.normalize(left * a + right * b, dim=-1)
