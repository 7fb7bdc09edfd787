"""Blocks of frames of a video that is denoised block by block: which are due, and what is stored of them.

Where attention is block-causal, a block of frames reads itself and the blocks before it. A block that the
loop finished is clean: its keys and values are written once and read by the blocks behind it. A block that
the loop has not begun is read by no other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from dcache.kernels.changes import relative_change
from dcache.kernels.rows import RowIndex, scatter_rows


class Due(NamedTuple):
    """Blocks of one evaluation.

    Attributes:
        live: those whose frames the loop updates in it, ascending.
        finished: number of leading blocks that it updates no more.
    """

    live: list[int]
    finished: int


@dataclass(frozen=True)
class FrameGrid:
    """How the tokens of a video are divided.

    Attributes:
        frames: latent frames.
        per_block: frames in a block.
        per_frame: tokens in a frame.
    """

    frames: int
    per_block: int
    per_frame: int

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.frames // self.per_block

    @property
    def tokens(self) -> int:
        """Tokens of all frames."""
        return self.frames * self.per_frame

    def frames_of(self, blocks: Iterable[int]) -> list[int]:
        """The frames of these blocks, in order."""
        return [frame for b in blocks for frame in range(b * self.per_block, (b + 1) * self.per_block)]

    def rows(self, blocks: Sequence[int], device: torch.device) -> RowIndex:
        """The tokens of these blocks as an index of the rows of all frames."""
        size = self.per_block * self.per_frame
        first = torch.tensor(blocks, device=device)[:, None] * size
        return RowIndex((first + torch.arange(size, device=device)).flatten(), self.tokens, trusted=True)

    def mask(self, blocks: Sequence[int], device: torch.device) -> torch.Tensor | None:
        """Which keys the queries of these blocks read, bool (1, 1, queries, keys); None where they read all.

        Keys are those of all blocks up to the last of these.
        """
        if len(blocks) == 1:
            return None
        size = self.per_block * self.per_frame
        queries = torch.tensor(blocks, device=device).repeat_interleave(size)
        keys = torch.arange(blocks[-1] + 1, device=device).repeat_interleave(size)
        return (keys[None] <= queries[:, None])[None, None]

    def due(self, updates: Sequence[Sequence[bool]]) -> list[Due]:
        """The blocks of each evaluation.

        Args:
            updates: for each evaluation of the loop and each frame, whether the frame is updated.
        """
        frames = [self.frames_of([b]) for b in range(self.blocks)]
        live = [[b for b in range(self.blocks) if any(row[f] for f in frames[b])] for row in updates]
        due: list[Due] = []
        finished = self.blocks
        # From the end: a block is finished where no later evaluation updates it or one before it.
        for blocks in reversed(live):
            finished = min([finished, *blocks])
            due.append(Due(blocks, finished))
        return due[::-1]


@dataclass(eq=False)
class FrameStore:
    """What is stored of one branch's blocks.

    Attributes:
        grid: the division of the tokens.
        keys: for each layer (B, heads, tokens, d); the rows of blocks that are not in `stored` hold nothing.
        values: the same.
        latents: (B, C, frames, H, W), of each block as it was when its keys and values were computed.
        timesteps: (B, frames), likewise.
        outputs: like `latents`, the denoiser's outputs; None where no block is predicted.
        text: the condition of the calls.
        stored: blocks whose rows are stored.
        clean: number of leading blocks that are finished and stored.
        mark: of the weights and other arguments that computed it.
    """

    grid: FrameGrid
    latents: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor | None
    outputs: torch.Tensor | None = None
    keys: list[torch.Tensor] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)
    stored: set[int] = field(default_factory=set)
    clean: int = 0
    mark: Hashable = None

    def tensors(self) -> list[torch.Tensor]:
        """All tensors that are held."""
        single = (self.latents, self.timesteps, self.text, self.outputs)
        return [*self.keys, *self.values, *(t for t in single if t is not None)]

    def attend(
        self, layer: int, rows: RowIndex, end: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store rows of keys and values, and return those of the first `end` blocks.

        Args:
            layer: the attention's number.
            rows: the tokens that were computed.
            end: number of blocks that are read.
            key: (B, heads, rows, d).
            value: the same.
        """
        if layer == len(self.keys):
            for buffers, given in ((self.keys, key), (self.values, value)):
                shape = (*given.shape[:2], self.grid.tokens, given.shape[-1])
                buffers.append(given.new_empty(shape))
        last = end * self.grid.per_block * self.grid.per_frame
        scatter_rows(self.keys[layer], rows, key, dim=2)
        scatter_rows(self.values[layer], rows, value, dim=2)
        return self.keys[layer][:, :, :last], self.values[layer][:, :, :last]

    def note(self, blocks: Sequence[int], latents: torch.Tensor, timesteps: torch.Tensor) -> None:
        """These blocks were computed from these latents and timesteps, which are those of all frames."""
        frames = self.grid.frames_of(blocks)
        self.latents[:, :, frames] = latents[:, :, frames]
        self.timesteps[:, frames] = timesteps[:, frames]
        self.stored.update(blocks)

    def changes(self, blocks: Sequence[int], latents: torch.Tensor) -> list[float]:
        """Relative L1 change of the latents of these blocks since they were computed; one device sync.

        Infinite for a block that is not stored.
        """
        known = [b for b in blocks if b in self.stored]
        each = [
            relative_change(latents[:, :, frames], self.latents[:, :, frames])
            for frames in map(self.grid.frames_of, ([b] for b in known))
        ]
        numbers = dict(zip(known, torch.stack(each).tolist() if each else (), strict=True))
        return [numbers.get(b, float("inf")) for b in blocks]

    def fits(self, latents: torch.Tensor, text: torch.Tensor | None, mark: Hashable = None) -> bool:
        """Whether calls with such latents, this condition and this mark could have stored it."""
        if mark != self.mark:
            return False
        if latents.shape != self.latents.shape or latents.dtype != self.latents.dtype:
            return False
        if text is None or self.text is None:
            return text is self.text
        return text.shape == self.text.shape and torch.equal(text, self.text)

    def same_prefix(self, blocks: int, latents: torch.Tensor, timesteps: torch.Tensor) -> int:
        """How many of the first blocks, at most so many, come with the latents that were stored."""
        frames = blocks * self.grid.per_block
        equal = (latents[:, :, :frames] == self.latents[:, :, :frames]).all(dim=(0, 1, 3, 4))
        equal &= (timesteps[:, :frames] == self.timesteps[:, :frames]).all(dim=0)
        flags = equal.view(blocks, self.grid.per_block).all(dim=1).tolist()
        return flags.index(False) if False in flags else blocks

    def fork(self, blocks: int) -> FrameStore:
        """A store with the first blocks of this one, in the same memory; rows behind them are overwritten."""
        latents, timesteps = self.latents.clone(), self.timesteps.clone()
        outputs = None if self.outputs is None else torch.zeros_like(self.outputs)
        keys, values, stored = self.keys, self.values, set(range(blocks))
        return FrameStore(
            self.grid, latents, timesteps, self.text, outputs, keys, values, stored, blocks, self.mark
        )
