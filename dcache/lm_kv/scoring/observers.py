"""What a policy gathers of each call at a layer, for its scorer to read when tokens are evicted.

An observer is a frozen choice; what it gathered is a dictionary of tensors whose first dimension is the
batch's rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import torch

from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.storage.stored import Stored

State: TypeAlias = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Observed:
    """One call of one layer's attention.

    Attributes:
        query: `[B, H, S, d]`, rotated as the model rotated it.
        valid: bool `[B, S]`, False at pads.
        positions: int64 `[B, S]`, each token's index among its row's true tokens.
        unrotate: the queries without their rotation; it raises DcacheError where the model's is unknown.
        marked: bool `[B, S]`, which tokens are images'; None where nothing was marked.
        ids: int64 `[B, S]`, the tokens' ids, for observers that read them; else None.
        layer: index of the layer.
        hidden: `[B, S, D]`, what the layer's attention was given; None for observers that do not ask for it.
        columns: that the layer has seen, this call's too: more than any token's position, known on the host.
    """

    query: torch.Tensor
    valid: torch.Tensor
    positions: torch.Tensor
    unrotate: Callable[[], torch.Tensor]
    marked: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    layer: int = 0
    hidden: torch.Tensor | None = None
    columns: int = 0


class Observer(Protocol):
    """Gathers statistics of a layer's calls."""

    @property
    def statistic(self) -> str | None:
        """Text "sum" where every stored token gets a running sum of the attention it received, else None."""

    @property
    def beside(self) -> tuple[int, ...] | None:
        """Shape of the statistic beside each stored token, () for a number; None where there is none."""

    @property
    def needs_rotary(self) -> bool:
        """Whether `unrotate` is called."""

    @property
    def needs_hidden(self) -> bool:
        """Whether `hidden` is read."""

    @property
    def reads_ids(self) -> bool:
        """Whether calls must have `ids`; those that come as embeddings are refused then."""

    @property
    def reads_marks(self) -> bool:
        """Whether `marked` is read; `KVCache.mark` is refused where it is not."""

    def observe(self, state: State, call: Observed) -> State:
        """The state after one more call; `state` is empty before the first."""

    def crop(self, state: State, end: torch.Tensor) -> State:
        """The state without queries at positions of at least `end` `[B]`."""

    def settle(self, state: State, stored: Stored, logits: Logits) -> torch.Tensor | None:
        """New statistics `[B, h, M, *beside]` of stored tokens, before any is evicted; None to leave them.

        It is called again for the same queries where tokens are evicted by hand.
        """


@dataclass(frozen=True)
class Nothing:
    """For scorers that read stored keys and values alone."""

    statistic: ClassVar[str | None] = None
    beside: ClassVar[tuple[int, ...] | None] = None
    needs_rotary: ClassVar[bool] = False
    needs_hidden: ClassVar[bool] = False

    reads_marks: ClassVar[bool] = False

    @property
    def reads_ids(self) -> bool:
        """False."""
        return False

    def observe(self, state: State, call: Observed) -> State:
        """The state as it was."""
        return state

    def crop(self, state: State, end: torch.Tensor) -> State:
        """The state as it was."""
        return state

    def settle(self, state: State, stored: Stored, logits: Logits) -> torch.Tensor | None:
        """None: no statistics."""
        return None


@dataclass(frozen=True)
class ColumnSums(Nothing):
    """The attention that each stored token received from all queries so far, the mean over its group's heads.

    The sums lie beside the tokens (`Stored.score`) and are dropped with them. A query that `crop` takes back
    stays in the sums.
    """

    statistic: ClassVar[str | None] = "sum"
    beside: ClassVar[tuple[int, ...] | None] = ()


@dataclass(frozen=True)
class QueryWindow(Nothing):
    """The last true queries of every row, whose attention can be computed again when tokens are evicted.

    State: `query` `[B, H, W, d]`, `position` int64 `[B, W]`, `valid` bool `[B, W]`; W is at most `size`.
    """

    size: int

    def observe(self, state: State, call: Observed) -> State:
        """Take the newest true queries in, drop the oldest."""
        new = _newest(call.query, call.positions, call.valid, self.size)
        if not state:
            return new
        return _newest(
            torch.cat([state["query"], new["query"]], 2),
            torch.cat([state["position"], new["position"]], 1),
            torch.cat([state["valid"], new["valid"]], 1),
            self.size,
        )

    def crop(self, state: State, end: torch.Tensor) -> State:
        """Queries at or behind `end` no longer count."""
        if not state:
            return state
        return {**state, "valid": state["valid"] & (state["position"] < end[:, None])}


@dataclass(frozen=True)
class QueryMoments(Nothing):
    """Count, sum and sum of products of all true queries before rotation, but for the first `skip`.

    State: `count` `[B]`, `sum` `[B, H, d]`, `products` `[B, H, d * (d + 1) / 2]` (see `upper_triangle`), all
    float32 and added to in float64. A query that `crop` takes back still counts.
    """

    skip: int = 0
    needs_rotary: ClassVar[bool] = True

    def observe(self, state: State, call: Observed) -> State:
        """Add a call's queries."""
        counted = call.valid & (call.positions >= self.skip)
        query = call.unrotate().double() * counted[:, None, :, None]
        new = {
            "count": counted.sum(1).double(),
            "sum": query.sum(2),
            "products": upper_triangle(query.mT @ query),
        }
        total = {name: state[name] + value for name, value in new.items()} if state else new
        # float64, or both triangles, would double the bytes, which do not shrink with the budget.
        return {name: value.float() for name, value in total.items()}

    def crop(self, state: State, end: torch.Tensor) -> State:
        """Sums stay."""
        return state


def upper_triangle(matrices: torch.Tensor) -> torch.Tensor:
    """Symmetric matrices `[..., d, d]` as their upper triangles `[..., d * (d + 1) / 2]`."""
    rows, columns = torch.triu_indices(*matrices.shape[-2:], device=matrices.device)
    return matrices[..., rows, columns]


def symmetric(triangles: torch.Tensor, size: int) -> torch.Tensor:
    """The inverse of `upper_triangle`, `[..., size, size]`."""
    rows, columns = torch.triu_indices(size, size, device=triangles.device)
    matrices = triangles.new_empty(*triangles.shape[:-1], size, size)
    matrices[..., rows, columns] = triangles
    matrices[..., columns, rows] = triangles
    return matrices


def _newest(query: torch.Tensor, position: torch.Tensor, valid: torch.Tensor, size: int) -> State:
    """The last `size` true queries of each row, in order, pads in front."""
    count = min(size, query.shape[2])
    # A stable sort moves pads to the front and leaves true queries in order.
    order = valid.int().argsort(dim=1, stable=True)[:, -count:]
    index = order[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3])
    return {
        "query": query.gather(2, index),
        "position": position.gather(1, order),
        "valid": valid.gather(1, order),
    }
