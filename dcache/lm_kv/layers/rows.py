"""Rows of a cache: kept, reordered and repeated, in all layers and in the text that was seen."""

from __future__ import annotations

import torch

from dcache.lm_kv.model.adapter import LiveCache
from dcache.lm_kv.model.text import Text


class RowCache(LiveCache):
    """A cache that remembers the text of its rows."""

    _text: Text

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        for layer in self.layers:
            layer.reorder_cache(beam_idx)
        self._text.select_rows(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        super().batch_select_indices(indices)
        self._text.select_rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)
        self._text.repeat_rows(repeats)
