"""The dense tail of a layer: the newest tokens, uncompressed, in slabs that grow by blocks."""

from __future__ import annotations

import torch

from dcache.lm_kv.storage.parts import DensePart

# A slab that is too small grows by an eighth of the tokens in it, within these bounds. Doubling would let a
# cache that keeps a quarter hold far more than a quarter of the bytes; with less, steps would copy more.
LEAST, MOST = 8, 64


class Tail:
    """Keys, values, positions and validity of the newest columns of all rows.

    Args:
        keys: `[rows, heads, 0, d]`, for shape, dtype and device.
        values: `[rows, heads, 0, d_v]`.
        beside: shape of the float32 statistic of each slot, () for a number; None for none.
        width: numbers of what attention was given, which is kept beside each column; None for none.
    """

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        beside: tuple[int, ...] | None = None,
        width: int | None = None,
    ) -> None:
        rows, heads = keys.shape[:2]
        self.length = 0
        # Oldest columns of which a row's tokens have been encoded, so that none can be taken back.
        self.locked = 0
        # False while no column is a pad in any row, so that attention needs no mask.
        self.padded = False
        self._keys = keys.new_empty(rows, heads, 0, keys.shape[3])
        self._values = values.new_empty(rows, heads, 0, values.shape[3])
        self._positions = torch.empty(rows, 0, dtype=torch.int32, device=keys.device)
        self._valid = torch.empty(rows, 0, dtype=torch.bool, device=keys.device)
        self._score: torch.Tensor | None = None
        if beside is not None:
            self._score = keys.new_empty(rows, heads, 0, *beside, dtype=torch.float32)
        # Laid out as keys of one head.
        self._inputs = None if width is None else keys.new_empty(rows, 1, 0, width)

    @property
    def keys(self) -> torch.Tensor:
        """`[rows, heads, length, d]`."""
        return self._keys[:, :, : self.length]

    @property
    def values(self) -> torch.Tensor:
        """`[rows, heads, length, d_v]`."""
        return self._values[:, :, : self.length]

    @property
    def positions(self) -> torch.Tensor:
        """int32 `[rows, length]`: each token's index among its row's true tokens."""
        return self._positions[:, : self.length]

    @property
    def valid(self) -> torch.Tensor:
        """Bool `[rows, length]`: False at pads."""
        return self._valid[:, : self.length]

    @property
    def score(self) -> torch.Tensor | None:
        """float32 `[rows, heads, length, ...]`; None where tokens have no statistic."""
        return None if self._score is None else self._score[:, :, : self.length]

    @property
    def inputs(self) -> torch.Tensor | None:
        """`[rows, length, D]`, what attention was given; None where it is not kept."""
        return None if self._inputs is None else self._inputs[:, 0, : self.length]

    @property
    def free(self) -> int:
        """Newest columns that can be taken back."""
        return self.length - self.locked

    def part(self) -> DensePart:
        """All of it for attention."""
        return DensePart(self.keys, self.values, self.valid[:, None] if self.padded else None)

    def append(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        positions: torch.Tensor,
        valid: torch.Tensor | None,
        inputs: torch.Tensor | None = None,
    ) -> bool:
        """Copy new columns in; their statistics start at 0.

        Args:
            keys: `[rows, heads, n, d]`.
            values: `[rows, heads, n, d_v]`.
            positions: `[rows, n]`.
            valid: bool `[rows, n]`, None where no column is a pad.
            inputs: `[rows, n, D]`, what attention was given; read where it is kept.

        Returns:
            Whether the slabs grew.
        """
        start, end = self.length, self.length + keys.shape[2]
        grows = self._locked or end > self._keys.shape[2]
        if grows:
            self._resize(max(end, start + min(MOST, max(LEAST, start // 8))))
        self._keys[:, :, start:end] = keys
        self._values[:, :, start:end] = values
        self._positions[:, start:end] = positions
        if self._inputs is not None:
            if inputs is None:
                raise TypeError("the tail keeps what attention was given")
            self._inputs[:, 0, start:end] = inputs
        if valid is not None:
            self._valid[:, start:end] = valid
        self.length = end
        self.padded = self.padded or valid is not None
        return grows

    def add_scores(self, columns: torch.Tensor) -> None:
        """Add `[rows, heads, length, ...]` to the statistics, where there are any."""
        self._unlock()
        if self.score is not None:
            self.score.add_(columns)

    def set_scores(self, scores: torch.Tensor) -> None:
        """Replace the statistics by `[rows, heads, length, ...]`, where there are any."""
        self._unlock()
        if self.score is not None:
            self.score.copy_(scores)

    def drop_newest(self, columns: int) -> None:
        """Forget the newest columns."""
        self.length -= columns
        if self._locked:
            self._unlock()
            return
        self._valid[:, self.length :] = True
        if self._score is not None:
            self._score[:, :, self.length :] = 0.0

    def keep_newest(self, columns: int) -> None:
        """Forget all but the newest columns, in slabs without spare room."""
        kept = slice(self.length - columns, self.length)
        self._take(kept)
        self.locked = max(0, self.locked - (self.length - columns))
        self.length = columns
        self.padded = self.padded and not bool(self._valid.all())

    def window(self, newest: torch.Tensor, columns: int) -> torch.Tensor | None:
        """Bool `[rows, length]`: tokens of each row's window; None where the newest columns have all of them.

        Args:
            newest: bool `[rows, length]`, positions that are in the row's window.
            columns: that are in every row's window.
        """
        tokens = self.valid & newest
        outside = tokens[:, : self.length - columns]
        return tokens if bool(outside.any()) else None

    def oldest(self, residual: int, block: int) -> torch.Tensor | None:
        """Bool `[rows, length]`: each row's oldest tokens, in whole blocks, without its newest `residual`.

        None where no row has so many.
        """
        if self.length < residual + block:
            return None
        count = self.valid.sum(1) - residual
        leaving = count.clamp_min(0) // block * block
        oldest = self.valid & (self.valid.cumsum(1) <= leaving[:, None])
        return oldest if bool(oldest.any()) else None

    def drop(self, tokens: torch.Tensor) -> None:
        """Forget these tokens, bool `[rows, length]`, and the columns in front that no row needs then."""
        valid = self.valid & ~tokens
        needed = valid.any(0).nonzero()
        columns = self.length - int(needed[0]) if len(needed) else 0
        last = int(tokens.any(0).nonzero()[-1]) + 1
        self.locked = max(self.locked, last)
        self._valid = valid
        self.padded = True
        self.keep_newest(columns)

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        self._keys, self._values = self._keys[rows], self._values[rows]
        self._positions, self._valid = self._positions[rows], self._valid[rows]
        self._score = None if self._score is None else self._score[rows]
        self._inputs = None if self._inputs is None else self._inputs[rows]

    def fork(self) -> Tail:
        """A copy that shares nothing."""
        other = Tail.__new__(Tail)
        other.__dict__ = self.__dict__.copy()
        other._take(slice(0, self.length))
        return other

    def storages(self) -> list[torch.Tensor]:
        """Every tensor that is held, for counting bytes."""
        optional = [slab for slab in (self._score, self._inputs) if slab is not None]
        return [self._keys, self._values, self._positions, self._valid, *optional]

    @property
    def _locked(self) -> bool:
        """Whether the slabs were made under inference_mode, outside which they cannot be written to."""
        return self._keys.is_inference() and not torch.is_inference_mode_enabled()

    def _unlock(self) -> None:
        """Make slabs that can be written to, where these cannot."""
        if self._locked:
            self._resize(self._keys.shape[2])

    def _resize(self, slots: int) -> None:
        """Slabs with this many slots, the stored columns in front.

        Spare slots are valid and have a statistic of 0, so that a decoded token need not write them.
        """
        self._keys, self._values = self._wider(self._keys, slots), self._wider(self._values, slots)
        self._positions = self._wider(self._positions, slots, 0)
        self._valid = self._wider(self._valid, slots, 1)
        self._score = None if self._score is None else self._wider(self._score, slots, 0)
        self._inputs = None if self._inputs is None else self._wider(self._inputs, slots)

    def _wider(self, slab: torch.Tensor, slots: int, fill: int | None = None) -> torch.Tensor:
        """A slab with this many slots, the spare ones filled where a value is given."""
        axis = min(2, slab.ndim - 1)
        shape = (*slab.shape[:axis], slots, *slab.shape[axis + 1 :])
        wider = slab.new_empty(shape) if fill is None else slab.new_full(shape, fill)
        wider.narrow(axis, 0, self.length).copy_(slab.narrow(axis, 0, self.length))
        return wider

    def _take(self, columns: slice) -> None:
        self._keys = self._keys[:, :, columns].clone(memory_format=torch.contiguous_format)
        self._values = self._values[:, :, columns].clone(memory_format=torch.contiguous_format)
        self._positions = self._positions[:, columns].clone(memory_format=torch.contiguous_format)
        self._valid = self._valid[:, columns].clone(memory_format=torch.contiguous_format)
        if self._score is not None:
            self._score = self._score[:, :, columns].clone(memory_format=torch.contiguous_format)
        if self._inputs is not None:
            self._inputs = self._inputs[:, :, columns].clone(memory_format=torch.contiguous_format)
