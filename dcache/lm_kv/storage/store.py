"""A layer's storage: immutable packed segments of what was kept, and a dense tail of the newest columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.nn import functional as F

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.codec import Codec, Plain
from dcache.lm_kv.storage.front import Front
from dcache.lm_kv.storage.parts import DensePart, Part
from dcache.lm_kv.storage.reducers import Reducer, drop
from dcache.lm_kv.storage.segment import Segment, append, join
from dcache.lm_kv.storage.stored import Stored, gather
from dcache.lm_kv.storage.tail import Tail
from dcache.lm_kv.storage.tiers import two_tiers


class LayerStore:
    """Keys and values of one layer, ragged over rows and KV heads.

    Args:
        keys: `[rows, heads, n, d]`, for shape, dtype and device; nothing of it is stored.
        values: `[rows, heads, n, d_v]`, likewise.
        beside: shape of each token's statistic, as in `Tail`.
        width: numbers of what attention was given, likewise.

    Attributes:
        front: texts that all rows read, stored once; None where there are none.
        segments: what was kept.
        tail: the newest columns; they alone can be taken back.
        seen: int64 `[rows]`, true tokens so far, evicted ones included.
        columns: columns so far, pads and evicted ones included.
        offset: int64 `[rows]`, the model's position of a token minus its index among the row's true ones,
            where keys are turned.
    """

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        beside: tuple[int, ...] | None = None,
        width: int | None = None,
    ) -> None:
        self.front: Front | None = None
        self.segments: tuple[Segment, ...] = ()
        self.tail = Tail(keys, values, beside, width)
        self.seen = torch.zeros(len(keys), dtype=torch.long, device=keys.device)
        self.columns = 0
        self.offset = torch.zeros_like(self.seen)

    @property
    def heads(self) -> int:
        """KV heads."""
        return self.tail.keys.shape[1]

    def append(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        valid: torch.Tensor | None,
        seen: torch.Tensor,
        inputs: torch.Tensor | None = None,
    ) -> bool:
        """Store new columns in the tail; see `Tail.append`.

        Args:
            keys: `[rows, heads, n, d]`.
            values: `[rows, heads, n, d_v]`.
            positions: `[rows, n]`.
            valid: bool `[rows, n]` or None.
            seen: int64 `[rows]`, true tokens so far, these included; never written to.
            inputs: `[rows, n, D]`, what attention was given, or None.

        Returns:
            Whether the bytes that are held changed.
        """
        self.seen = seen
        self.columns += keys.shape[2]
        return self.tail.append(keys, values, positions, valid, inputs)

    def check_crop(self, count: int) -> None:
        """Refuse to take so many columns back where some of them left the tail.

        Raises:
            DcacheError: they did; they are compressed.
        """
        if count > self.tail.free:
            raise DcacheError(
                f"crop({-count}) reaches into compressed tokens: only the newest "
                f"{self.tail.free} can be taken back. Give the policy a larger window, or its codec a "
                "larger residual, or crop before tokens are compressed."
            )

    def crop(self, count: int) -> None:
        """Take the newest columns of the tail back; `check_crop` says how many can be.

        Raises:
            DcacheError: as `check_crop`.
        """
        self.check_crop(count)
        self.seen = self.seen - self.tail.valid[:, self.tail.length - count :].sum(1)
        self.tail.drop_newest(count)
        self.columns -= count

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        self.segments = tuple(segment.select_rows(rows) for segment in self.segments)
        self.tail.select_rows(rows)
        self.seen, self.offset = self.seen[rows], self.offset[rows]

    def stored(self) -> Stored:
        """What the rows hold themselves, in one padded form; its columns are in the order of `parts`."""
        return gather(self.segments, self.tail, self.offset)

    def parts(self, fresh: DensePart | None = None) -> list[Part]:
        """Everything stored, for attention.

        Args:
            fresh: this call's own tokens, where they are not stored yet.
        """
        front = [] if self.front is None else self.front.parts(self.tail, fresh)
        return [*front, *(segment.part() for segment in self.segments), self.tail.part()]

    def kept(self) -> torch.Tensor:
        """int64 `[rows, heads]`, tokens that each KV head holds, or reads in front."""
        kept = self.tail.valid.sum(1)[:, None].expand(-1, self.heads)
        if self.front is not None:
            kept = kept + self.front.kept()
        for segment in self.segments:
            kept = kept + segment.lengths
        return kept

    def pack(
        self,
        stored: Stored,
        keep: torch.Tensor,
        columns: int,
        reducer: Reducer,
        codec: Codec,
        apart: torch.Tensor | None = None,
        near: torch.Tensor | None = None,
    ) -> None:
        """Replace everything stored by one segment of what is kept; the newest columns stay in the tail.

        Args:
            stored: what `stored` gave.
            keep: bool `[rows, heads, M]`; True at every token of the newest columns.
            columns: how many of the tail's columns stay.
            reducer: what becomes of the others.
            codec: how the segment is stored.
            apart: bool `[rows, heads, M]`, kept tokens that make a second segment; None for none.
            near: bool `[rows, tail's columns]`, tokens that stay in the tail in place of the newest columns.
        """
        if near is not None:
            stays = F.pad(near[:, None].expand(-1, self.heads, -1), (keep.shape[2] - near.shape[1], 0))
            stored, keep, columns = replace(stored, valid=stored.valid & ~stays), keep & ~stays, 0
        older = keep.shape[2] - columns
        if reducer.lower is not None:
            few = stored.first(older)
            self.segments = two_tiers(self.segments, few, keep[:, :, :older], codec, reducer.lower)
        else:
            masks = (keep,) if apart is None else (keep & ~apart, keep & apart)
            pieces = [self._packed(stored.first(older), mask[:, :, :older], reducer, codec) for mask in masks]
            self.segments = tuple(pieces)
        if near is None:
            self.tail.keep_newest(columns)
        else:
            leaving = self.tail.valid & ~near
            if bool(leaving.any()):
                self.tail.drop(leaving)

    def _packed(self, older: Stored, keep: torch.Tensor, reducer: Reducer, codec: Codec) -> Segment:
        """A segment of what is kept of the older tokens."""
        if reducer is drop and not all(isinstance(segment.codec, Plain) for segment in self.segments):
            # What is encoded already stays as it is: encoded again, errors would add up.
            return self._subset(keep, codec)
        return reducer(older, keep, codec)

    def flush(self, codec: Codec, bound: Callable[[], Codec]) -> bool:
        """Encode the oldest tokens of the tail in whole blocks, where each row has its residual beside them.

        Args:
            codec: says how many tokens leave together and how many stay.
            bound: the same codec with what it knows of the layer; called where tokens leave, for it may cost
                more than a decoded token's other bookkeeping.

        Returns:
            Whether there were any.
        """
        oldest = self.tail.oldest(codec.residual, codec.block) if codec.block else None
        if oldest is None:
            return False
        tokens = oldest[:, None].expand(-1, self.heads, -1)
        new = drop(gather((), self.tail, self.offset), tokens, bound())
        start = self.tail.positions.gather(1, oldest.int().argmax(1, keepdim=True)).long()
        new = replace(new, positions=None, first=start.expand(-1, self.heads))
        if self.segments and self.segments[-1].first is not None:
            self.segments = (*self.segments[:-1], append(self.segments[-1], new))
        else:
            self.segments = (*self.segments, new)
        self.tail.drop(oldest)
        return True

    def add_scores(self, columns: torch.Tensor) -> bool:
        """Add `[rows, heads, M]` to the running statistics; columns are in the order of `parts`.

        Returns:
            Whether the bytes that are held changed.
        """
        segments, start = [], 0
        # Statistics are float32, also those of a model in float64.
        columns = columns.float()
        grows = any(segment.score is None for segment in self.segments)
        for segment in self.segments:
            added = segment.flatten(columns[..., start : start + segment.width])
            segments.append(segment.with_score(added if segment.score is None else segment.score + added))
            start += segment.width
        self.segments = tuple(segments)
        self.tail.add_scores(columns[..., start:])
        return grows

    def set_scores(self, scores: torch.Tensor) -> None:
        """Replace all statistics by `[rows, heads, M, ...]`; columns are in the order of `parts`."""
        segments, start = [], 0
        for segment in self.segments:
            piece = scores[:, :, start : start + segment.width]
            # A piece of a larger tensor would keep all of it alive.
            segments.append(segment.with_score(segment.flatten(piece.float()).clone()))
            start += segment.width
        self.segments = tuple(segments)
        self.tail.set_scores(scores[:, :, start:])

    def _subset(self, keep: torch.Tensor, codec: Codec) -> Segment:
        """The tokens in `keep`, bool `[rows, heads, M]`; those of the tail are encoded."""
        widths = [segment.width for segment in self.segments]
        columns = keep.shape[2] - sum(widths)
        *pieces, newest = keep.split([*widths, columns], 2)
        segments = [segment.subset(piece) for segment, piece in zip(self.segments, pieces, strict=True)]
        fresh = gather((), self.tail, self.offset).first(columns)
        return join([*segments, drop(fresh, newest, codec)])

    def storages(self) -> list[torch.Tensor]:
        """Every tensor that is held, for counting bytes."""
        packed = [tensor for segment in self.segments for tensor in segment.storages()]
        return [*packed, *self.tail.storages(), *([] if self.front is None else self.front.storages())]

    def fork(self) -> LayerStore:
        """A copy with the same immutable segments and a copied tail."""
        other = LayerStore.__new__(LayerStore)
        other.front, other.segments, other.tail = self.front, self.segments, self.tail.fork()
        other.seen, other.columns, other.offset = self.seen, self.columns, self.offset
        return other


def share_seen(stores: Sequence[LayerStore | None]) -> None:
    """Let stores with equal counts of true tokens have one tensor, so that what follows is computed once."""
    first, *others = stores
    for other in others:
        if first is None or other is None or other.seen is first.seen:
            continue
        if torch.equal(other.seen, first.seen):
            other.seen = first.seen
