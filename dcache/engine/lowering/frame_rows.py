"""Calls of a denoiser on some frames: their positions, and the keys and values that they read.

The denoiser is called with the latents and timesteps of the blocks that are computed. Its rotary embedding is
asked for the positions of all frames, of which their rows are taken, and its self-attention reads stored keys
and values of the blocks before them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import torch
from torch import nn

from dcache.cache.history import History
from dcache.engine.call import Call
from dcache.engine.frames import FrameGrid, FrameStore
from dcache.engine.protocols import Engine
from dcache.errors import DcacheError
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import flatten, rebuild
from dcache.intercept.sdpa import SdpaCalls
from dcache.kernels.rows import RowIndex, gather_rows
from dcache.sites.site import Site
from dcache.sites.structure import Structure


class FrameParts(NamedTuple):
    """The parts of a denoiser that know where a token stands.

    Attributes:
        rope: the rotary embedding, called with the latents.
        attentions: the self-attention of each block.
        patch: height and width in latents of a token.
    """

    rope: nn.Module
    attentions: list[nn.Module]
    patch: tuple[int, int]


class FrameCall(NamedTuple):
    """A call's arguments by name, and the tensors among them that are read.

    Attributes:
        named: all arguments.
        latents: (B, C, frames, H, W).
        timesteps: (B, frames).
        text: the condition, or None.
    """

    named: dict[str, Any]
    latents: torch.Tensor
    timesteps: torch.Tensor
    text: torch.Tensor | None


@dataclass
class Rows:
    """The rows of a call under way.

    Attributes:
        store: what is stored of its branch.
        index: the tokens that are computed.
        end: number of blocks that these may read.
        mask: as `FrameGrid.mask` gave it.
        shape: of the latents of all frames.
        layers: self-attentions that were called.
    """

    store: FrameStore
    index: RowIndex
    end: int
    mask: torch.Tensor | None
    shape: torch.Size
    layers: int = 0

    def positions(self, inner: Callable[..., Any], latents: torch.Tensor) -> Any:
        """The rotary embedding of these rows."""
        leaves, recipe = flatten(inner(latents.new_empty(1).expand(self.shape)))
        return rebuild([gather_rows(leaf, self.index, dim=1) for leaf in leaves], recipe)

    def attention(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The output of a self-attention that reads the blocks before these rows too."""
        with SdpaCalls(self._attend):
            return inner(*args, **kwargs)

    def _attend(self, call: dict[str, Any]) -> dict[str, Any]:
        """The arguments of torch's attention with keys and values of all blocks that the rows may read."""
        keys, values = self.store.attend(self.layers, self.index, self.end, call["key"], call["value"])
        self.layers += 1
        return {**call, "key": keys, "value": values, "attn_mask": self.mask, "is_causal": False}


class FrameRows:
    """Calls one denoiser on some of its blocks of frames.

    Args:
        parts: its parts.

    Attributes:
        now: the rows of the call under way, None outside of one.
    """

    def __init__(self, parts: FrameParts) -> None:
        self.parts = parts
        self.now: Rows | None = None

    def compute(
        self, store: FrameStore, blocks: Sequence[int], given: FrameCall, inner: Callable[..., Any]
    ) -> Any:
        """The denoiser's output for these blocks alone.

        Args:
            store: has the keys and values of the blocks before them, and gets theirs.
            blocks: ascending.
            given: the call's arguments.
            inner: the denoiser's own call.

        Raises:
            DcacheError: its attention does not run through torch's attention function.
        """
        grid: FrameGrid = store.grid
        frames, device = grid.frames_of(blocks), given.latents.device
        named = {**given.named}
        named["hidden_states"] = given.latents[:, :, frames]
        named["timestep"] = given.timesteps[:, frames]
        index, mask = grid.rows(blocks, device), grid.mask(blocks, device)
        rows = self.now = Rows(store, index, blocks[-1] + 1, mask, given.latents.shape)
        try:
            output = inner(**named)
        finally:
            self.now = None
        if rows.layers != len(self.parts.attentions):
            raise DcacheError(
                f"all {len(self.parts.attentions)} self-attentions must call torch's "
                "scaled_dot_product_attention, where site 'frames' reads their keys and values, and "
                f"{rows.layers} do: use that attention back-end"
            )
        return output

    def intercepts(self) -> list[ModuleIntercept]:
        """The intercepts on the denoiser's parts."""
        attentions = [_FramePart(module, self, Rows.attention) for module in self.parts.attentions]
        return [_FramePart(self.parts.rope, self, Rows.positions), *attentions]


class _FramePart(ModuleIntercept):
    """In front of one of the denoiser's parts.

    Args:
        module: the part.
        frame_rows: what calls the denoiser.
        stand_in: called with the rows of the call under way, the part's own call and its arguments.
    """

    name = "frames"

    def __init__(self, module: nn.Module, frame_rows: FrameRows, stand_in: Callable[..., Any]) -> None:
        super().__init__(module)
        self.frame_rows, self.stand_in = frame_rows, stand_in

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the part's call."""
        rows = self.frame_rows.now
        if rows is None:
            return self.inner(*args, **kwargs)
        return self.stand_in(rows, self.inner, *args, **kwargs)


def parts_of(structure: Structure) -> FrameParts:
    """The parts that calls on some frames need.

    Raises:
        DcacheError: the denoiser has no block-causal attention, or other parts.
    """
    model = structure.model
    config = getattr(model, "config", None)
    rope, patch = getattr(model, "rope", None), getattr(config, "patch_size", None)
    attentions = [s.module for s in structure.sublayers if s.name.startswith("attn:")]
    causal = getattr(config, "num_frame_per_block", None) is not None
    if not causal or not isinstance(rope, nn.Module) or len(attentions) != len(structure.blocks):
        raise DcacheError(
            "site 'frames' needs a denoiser whose attention is causal over blocks of frames, as that of "
            f"SkyReels-V2 with causal_block_size; {type(model).__name__} attends to all frames, so that keys "
            "and values of no block stay as they are. Use a method for any transformer, such as 'newton'."
        )
    if patch is None or patch[0] != 1:
        raise DcacheError(
            f"site 'frames' needs tokens of one frame each, and patch_size of {type(model).__name__} is "
            f"{patch}: use another method"
        )
    return FrameParts(rope, attentions, (patch[1], patch[2]))


@final
class BlockOfFrames:
    """One block of frames, which decides for itself; its anchor lies in the region's store."""

    def __init__(self, engine: Engine, index: int) -> None:
        self.engine = engine
        self.site = Site(f"frames:{index}", "frames", index, index)
        self.key = self.site.name
        self.history: History | None = None
        self.has_history = False

    def decide(self, call: Call) -> bool:
        """Whether the block is predicted in this call; counts it."""
        self.history = history = call.branch.history(self.key)
        predicted = self.engine.predicts(self, call)
        history.run_length = history.run_length + 1 if predicted else 0
        return predicted

    def release(self) -> None:
        """Drop all tensors at the end of a run."""
        self.history = None
