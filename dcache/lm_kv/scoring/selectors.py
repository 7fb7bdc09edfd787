"""Which stored tokens a decoded token reads: an index over packed keys, and logits guessed from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch.nn import functional as F

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.pages import page_means, unlike_pages
from dcache.lm_kv.scoring.observers import State

Index: TypeAlias = dict[str, torch.Tensor]


class Selector(Protocol):
    """Guesses the logits of pages of tokens. All tokens are kept; the best pages are read."""

    @property
    def page(self) -> int:
        """Tokens that are read together; the first page begins at a row's first true token."""

    @property
    def reads_attention(self) -> bool:
        """Whether the state must have `received`."""

    @property
    def reads_keys(self) -> bool:
        """Whether `products` must be given `keys`, beside what `index` gave."""

    @property
    def distance(self) -> int | None:
        """How far from the query all keys are looked at; None where each is looked at where it is.

        With a distance, keys are turned back to position 0 for `index`, queries to this position.
        """

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """What is looked at instead of the keys; the first dimension of all tensors is the rows.

        `always`, bool `[B, h, pages]`, where there is such a tensor, marks pages that are read at every step.
        `sizes`, int32 `[B, h, pages]`, where there is such a tensor, are the pages' numbers of tokens instead
        of `page`; then the last page that is read may be read in part.

        Args:
            keys: `[B, h, n, d]`, a row's tokens from its first to its last, then unused slots.
            valid: bool `[B, h, n]`, False at unused slots.
            state: what the policy's observer gathered; with a calibration, its `channels` `[h, d]` too;
                `received` float32 `[B, h, n]`, the mean attention of the kept queries, where it is read;
                `places` int64 `[B, h, n]`, each token's index among its row's true tokens.
        """

    def asks(self, query: torch.Tensor, state: State) -> torch.Tensor:
        """The query by which pages are chosen for a new token's `[B, H, 1, d]`; same shape.

        Args:
            query: the token's.
            state: what the policy's observer gathered of the tokens before it.
        """

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """Guesses of the pages' largest dot products with queries `[B, h, G, d]`, `[B, h, G, pages]`.

        Args:
            query: of each group.
            index: what `index` gave, and `limit` int64 `[B]`, tokens that a KV head may read; `keys`
                `[B, h, n, d]` where they are read, on the device where they are stored.
        """


class ByItself:
    """A selector that chooses pages by the new token's query."""

    reads_keys: ClassVar[bool] = False

    @property
    def distance(self) -> int | None:
        """None: keys and queries as they are."""
        return None

    def asks(self, query: torch.Tensor, state: State) -> torch.Tensor:
        """The query itself."""
        return query


@dataclass(frozen=True)
class PageBounds(ByItself):
    """Quest: an upper bound of a page's dot products, from the least and largest value of each channel.

    Args:
        page: tokens of a page; at least 1.
    """

    page: int = 16
    reads_attention: ClassVar[bool] = False

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`low` and `high` `[B, h, pages, d]`, in the keys' dtype."""
        missing = -keys.shape[2] % self.page
        pages = F.pad(keys, (0, 0, 0, missing)).unflatten(2, (-1, self.page))
        there = F.pad(valid, (0, missing)).unflatten(2, (-1, self.page))[..., None]
        low = pages.masked_fill(~there, float("inf")).amin(3)
        high = pages.masked_fill(~there, float("-inf")).amax(3)
        empty = ~there.any(3)
        return {"low": low.masked_fill(empty, 0.0), "high": high.masked_fill(empty, 0.0)}

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """sum_j max(q_j low_j, q_j high_j)."""
        low, high = (index[name].to(query.dtype).mT for name in ("low", "high"))
        return query.clamp_max(0.0) @ low + query.clamp_min(0.0) @ high


@dataclass(frozen=True)
class LabelChannels(ByItself):
    """Double Sparsity: dot products over the few channels that matter most to each head.

    Channels are those with the largest mean |q_j| mean |k_j|: a calibration's, or of the last queries and all
    keys of the text, for which the policy's observer must be `QueryWindow`.

    Args:
        channels: how many; at least 1.
    """

    channels: int = 16
    page: ClassVar[int] = 1
    reads_attention: ClassVar[bool] = False

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`channels` int64 `[B, h, r]` and `labels` `[B, h, n, r]`, these channels of the keys."""
        if "channels" in state:
            order = state["channels"].long().expand(len(keys), -1, -1)
        else:
            order = _order(keys, valid, state)
        channels = order[..., : self.channels].sort(-1).values
        labels = keys.gather(-1, channels[:, :, None].expand(-1, -1, keys.shape[2], -1))
        return {"channels": channels, "labels": labels}

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """Dot products over the labelled channels."""
        channels = index["channels"][:, :, None].expand(-1, -1, query.shape[2], -1)
        return query.gather(-1, channels) @ index["labels"].to(query.dtype).mT


def _order(keys: torch.Tensor, valid: torch.Tensor, state: State) -> torch.Tensor:
    """Channels of each head, int64 `[B, h, d]`, those that weigh most first; of equal ones the lowest."""
    if "query" not in state:
        raise DcacheError("LabelChannels reads the last queries: give its policy a QueryWindow observer")
    counted = state["valid"][:, None, :, None]
    queries = (state["query"].float().abs() * counted).sum(2) / counted.sum(2).clamp_min(1)
    sizes = (keys.float().abs() * valid[..., None]).sum(2) / valid.sum(2, keepdim=True).clamp_min(1)
    importance = queries.unflatten(1, (keys.shape[1], -1)).mean(2) * sizes
    return importance.argsort(dim=-1, descending=True, stable=True)


@dataclass(frozen=True)
class Landmarks(ByItself):
    """ShadowKV: a page's mean key stands for all of them; pages that it stands for badly are always read.

    Args:
        page: tokens of a page; at least 1.
        exact: how many pages of a head are always read, as in `unlike_pages`.
    """

    page: int = 8
    exact: int = 48
    reads_attention: ClassVar[bool] = False

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`landmarks` `[B, h, pages, d]` in the keys' dtype, and `always`."""
        means, _ = page_means(keys.flatten(0, 1), valid.flatten(0, 1), self.page)
        always = unlike_pages(keys.flatten(0, 1), valid.flatten(0, 1), self.page, self.exact)
        shape = keys.shape[:2]
        return {"landmarks": means.to(keys.dtype).unflatten(0, shape), "always": always.unflatten(0, shape)}

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """Mean dot products."""
        return query @ index["landmarks"].to(query.dtype).mT


@dataclass(frozen=True)
class LatestQueries(ByItself):
    """LoopServe: tokens that the last queries before the indexing attended to, whatever is asked now.

    The policy's observer must be `QueryWindow`.
    """

    page: ClassVar[int] = 1
    reads_attention: ClassVar[bool] = True

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`logits` `[B, h, n]`, logarithms of the mean attention."""
        if "received" not in state:
            raise DcacheError("LatestQueries reads the last queries: give its policy a QueryWindow observer")
        return {"logits": state["received"].clamp_min(1e-30).log()}

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """The same for all queries."""
        return index["logits"][:, :, None].expand(-1, -1, query.shape[2], -1)


@dataclass(frozen=True)
class OtherLayers(ByItself):
    """TidalDecode: tokens that another layer's query attended to at this step (`Policy.choosing`)."""

    page: ClassVar[int] = 1
    reads_attention: ClassVar[bool] = False

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """Nothing: `logits` `[B, h, n]` come from the layer that chose."""
        return {}

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """The other layer's, the same for all queries."""
        return index["logits"][:, :, None].expand(-1, -1, query.shape[2], -1)
