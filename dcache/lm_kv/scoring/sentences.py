"""Sentences of a text: where they end, the query of the one that is written, and their keys' means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.scoring.by_position import flags_by_position
from dcache.lm_kv.scoring.observers import Observed, QueryWindow, State
from dcache.lm_kv.scoring.selectors import ByItself, Index
from dcache.util.checks import is_whole

# Tokens that end a sentence, as published.
ENDS = (".", "!", "?", ". ", "! ", "? ", "...", "\n\n", "\n\n\n", "。", "\uff01", "\uff1f", "。。")


def ends_of(ends: Any) -> tuple[int, ...]:
    """Ids of the tokens that end a sentence.

    Args:
        ends: the ids, or a tokenizer, of which those of `ENDS` are taken that are one token; None for none.

    Raises:
        DcacheError: it is something else, or the tokenizer knows none of them.
    """
    if ends is None:
        return ()
    if hasattr(ends, "encode") and not isinstance(ends, str):
        encoded = [ends.encode(text, add_special_tokens=False) for text in ENDS]
        ids = sorted({ids[0] for ids in encoded if len(ids) == 1})
        if not ids:
            raise DcacheError(
                "this tokenizer has no token for the end of a sentence, such as '.': give the ids, ends=(13,)"
            )
        return tuple(ids)
    if isinstance(ends, list | tuple | set | frozenset) and ends and all(is_whole(i) for i in ends):
        return tuple(sorted(int(i) for i in ends))
    raise DcacheError(f"ends must be ids of tokens, such as (13, 30), or a tokenizer, got {ends!r}")


@lru_cache(maxsize=8)
def _ids(ends: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Ids on a device; every layer reads them at every token."""
    return torch.tensor(ends, device=device)


@dataclass(frozen=True)
class SentenceWindow(QueryWindow):
    """The last queries, where sentences end, and the sum of the queries of the sentence that is written.

    State: as `QueryWindow`; `ends` bool `[B, T]` by position, T at least the columns, where there are ids of
    ends; `sum` float32 `[B, H, d]` and `count` int64 `[B]`, of the tokens decoded since the prompt or the
    last end. A sentence of which `crop` takes something back begins anew.

    Args:
        ends: ids of the tokens that end a sentence.
    """

    ends: tuple[int, ...] = ()

    @property
    def reads_ids(self) -> bool:
        """Whether there are ids of ends."""
        return bool(self.ends)

    def observe(self, state: State, call: Observed) -> State:
        """Add a decoded token's query to its sentence; behind an end the next one begins."""
        new = super().observe(state, call)
        rows, heads, count, size = call.query.shape
        zeros = torch.zeros(rows, heads, size, dtype=torch.float32, device=call.query.device)
        total, number = state.get("sum", zeros), state.get("count", torch.zeros_like(call.positions[:, 0]))
        if count == 1:
            total = total + call.query[:, :, 0].float() * call.valid[:, :, None]
            number = number + call.valid[:, 0]
        if self.ends:
            if call.ids is None:
                raise DcacheError("SentenceWindow reads the ids of every call")
            over = torch.isin(call.ids, _ids(self.ends, call.ids.device)) & call.valid
            new["ends"] = flags_by_position(state.get("ends"), call.positions, over, call.columns)
            going = ~over[:, 0]
            total, number = total * going[:, None, None], number * going
        # A prompt is no sentence that is written.
        return {**new, "sum": total if count == 1 else zeros, "count": number * (count == 1)}

    def crop(self, state: State, end: torch.Tensor) -> State:
        """Queries at or behind `end` no longer count, nor do ends."""
        if not state:
            return state
        new = super().crop(state, end)
        if "ends" in state:
            places = torch.arange(state["ends"].shape[1], device=end.device)
            new["ends"] = state["ends"] & (places < end[:, None])
        return {**new, "sum": torch.zeros_like(state["sum"]), "count": torch.zeros_like(state["count"])}


@dataclass(frozen=True)
class Sentences(ByItself):
    """SentenceKV: sentences by the dot product of their mean key with the mean query of the one written.

    The policy's observer must be `SentenceWindow`.

    Args:
        longest: a sentence is cut into pieces of so many tokens; at least 1.
    """

    longest: int
    page: ClassVar[int] = 1
    reads_attention: ClassVar[bool] = False

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`means` `[B, h, pages, d]` in the keys' dtype and `sizes` int32, of the kept tokens."""
        places = state["places"]
        numbers = self._numbers(state, int(places.max()) + 1)
        number = numbers[:, None].expand(-1, keys.shape[1], -1).gather(-1, places)
        begins = torch.ones_like(valid)
        begins[..., 1:] = number[..., 1:] != number[..., :-1]
        # Unused slots lie behind a run's tokens; they add nothing to the page before them.
        page = ((begins & valid).cumsum(-1) - 1).clamp_min(0)
        sizes = page.new_zeros(*page.shape[:2], int(page.max()) + 1).scatter_add(-1, page, valid.long())
        sums = torch.zeros(*sizes.shape, keys.shape[-1], dtype=torch.float32, device=keys.device)
        counted = keys.float() * valid[..., None]
        sums = sums.scatter_add(2, page[..., None].expand(-1, -1, -1, keys.shape[-1]), counted)
        means = sums / sizes.clamp_min(1)[..., None]
        return {"means": means.to(keys.dtype), "sizes": sizes.int()}

    def asks(self, query: torch.Tensor, state: State) -> torch.Tensor:
        """The mean query of the sentence that the new token goes on, its own included."""
        if "sum" not in state:
            # The first token of a text, or of what comes behind joined chunks, begins a sentence.
            return query
        total = state["sum"][:, :, None] + query.float()
        return total / (state["count"] + 1)[:, None, None, None]

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """Dot products with mean keys."""
        return query @ index["means"].to(query.dtype).mT

    def _numbers(self, state: State, tokens: int) -> torch.Tensor:
        """int64 `[B, tokens]` by position, which piece of which sentence a token is of, in order."""
        begins = torch.zeros(len(state["count"]), tokens, dtype=torch.bool, device=state["count"].device)
        begins[:, 0] = True
        if "ends" in state:
            known = state["ends"][:, : tokens - 1]
            begins[:, 1 : known.shape[1] + 1] |= known
        position = torch.arange(tokens, device=begins.device)
        start = torch.where(begins, position, 0).cummax(1).values
        return ((position - start) % self.longest == 0).cumsum(1) - 1
