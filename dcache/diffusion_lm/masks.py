"""`Masks`: the attention masks that a full pass used, and their rows.

The mask is taken where attention gets it, so padding, sliding windows, block-causal models and masks of the
caller are all covered without knowing how the model makes them.
"""

from __future__ import annotations

import torch

from dcache.diffusion_lm.selection import Selection
from dcache.errors import DcacheError
from dcache.util.bytes import bytes_of


class Masks:
    """Masks of a full pass by the ordinal of the attention call: None, or `[B or 1, H or 1, T or 1, T]`."""

    def __init__(self) -> None:
        self._masks: list[torch.Tensor | None] = []
        # Layers share a mask: it is gathered once a forward.
        self._gathered: dict[int, torch.Tensor] = {}
        self._selection: Selection | None = None

    def capture(self, call: int, mask: torch.Tensor | None) -> None:
        """Keep the mask of a call of a full pass.

        Raises:
            DcacheError: it is not four-dimensional, as that of a flash implementation.
        """
        if mask is not None and mask.ndim != 4:
            raise DcacheError(
                f"rows of attention need a mask [B, H, T, T], got {tuple(mask.shape)}: load the model with "
                "attn_implementation='sdpa'"
            )
        del self._masks[call:]
        self._masks.append(mask)
        self._gathered, self._selection = {}, None

    def rows(self, call: int, selection: Selection) -> torch.Tensor | None:
        """A call's mask for the selected queries `[B or 1, H or 1, K or 1, T]`."""
        mask = self._masks[call]
        if mask is None or mask.shape[2] == 1:
            return mask
        if self._selection is not selection:
            self._gathered, self._selection = {}, selection
        rows = self._gathered.get(id(mask))
        if rows is None:
            rows = self._gathered[id(mask)] = _gathered(mask, selection.positions)
        return rows

    def block(self) -> int | None:
        """The block size where every mask lets blocks see themselves and what is before; None otherwise."""
        masks = {id(mask): mask for mask in self._masks}
        sizes = {_block_of(mask) for mask in masks.values()}
        return sizes.pop() if len(sizes) == 1 else None

    def grow(self, width: int) -> bool:
        """Extend the masks to more positions; returns False where that needs a full pass."""
        size = self.block()
        if size is not None:
            device = next(mask.device for mask in self._masks if mask is not None)
            mask = block_causal(width, size, device)
            self._masks = [_like(old, mask) for old in self._masks]
        elif any(mask is not None for mask in self._masks):
            return False
        self._gathered, self._selection = {}, None
        return True

    @property
    def bytes_held(self) -> int:
        """Bytes of the masks."""
        return bytes_of([mask for mask in self._masks if mask is not None])


def block_causal(width: int, size: int, device: torch.device | None = None) -> torch.Tensor:
    """Bool `[1, 1, T, T]`: a query sees keys of its own block and of blocks before it."""
    block = torch.arange(width, device=device) // size
    return (block[:, None] >= block[None])[None, None]


def _gathered(mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    B, K = positions.shape
    _, H, _, T = mask.shape
    return mask.expand(B, H, T, T).gather(2, positions[:, None, :, None].expand(B, H, K, T))


def _block_of(mask: torch.Tensor | None) -> int | None:
    if mask is None or mask.shape[2] != mask.shape[3]:
        return None
    seen = mask if mask.dtype == torch.bool else mask >= 0
    size = int(seen[0, 0, 0].sum())
    if not 1 < size < mask.shape[3]:
        return None
    return size if bool((seen == block_causal(mask.shape[3], size, mask.device)).all()) else None


def _like(old: torch.Tensor | None, mask: torch.Tensor) -> torch.Tensor:
    """A bool mask in the form of another one."""
    if old is None or old.dtype == torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=old.dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(old.dtype).min
    )
