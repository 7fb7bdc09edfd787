"""Turning keys and queries with a model's own rotary functions; which layers rotate is found by trying."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.families import layers_for

# Positions of the one token that is tried; rotation at 37 differs from none in every frequency.
TRIED = (0, 37)
Functions: TypeAlias = tuple[
    Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
]


@dataclass(frozen=True)
class Turn:
    """A layer's rotation.

    Attributes:
        tables: positions `[B, n]`, `like` -> (cos, sin), each `[B, n, r]`.
        apply: `[B, h, n, r]`, cos, sin -> turned.
        size: how many of a head's channels turn; None for all.
    """

    tables: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    apply: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    size: int | None = None

    def __call__(self, states: torch.Tensor, positions: torch.Tensor, mode: str) -> torch.Tensor:
        """States `[B, h, n, d]` turned by positions `[B, n]`.

        Args:
            states: keys or queries.
            positions: int64.
            mode: "forward" as the model does, "back" its inverse, "shift" the rotation without its scale.
        """
        cos, sin = self.tables(positions, states)
        # Some rotations also scale (yarn): cos^2 + sin^2 is then not 1.
        scale = cos[..., :1] ** 2 + sin[..., :1] ** 2
        if mode == "back":
            cos, sin = cos / scale, -sin / scale
        elif mode == "shift":
            cos, sin = cos / scale.sqrt(), sin / scale.sqrt()
        turned = self.apply(states[..., : self.size], cos, sin)
        return turned if self.size is None else torch.cat([turned, states[..., self.size :]], -1)


@dataclass(frozen=True)
class Rotary:
    """The rotations of a decoder's layers: index -> `Turn`, None for layers that do not rotate (NoPE)."""

    turns: Mapping[int, Turn | None]

    def turn(self, layer: int, states: torch.Tensor, positions: torch.Tensor, mode: str) -> torch.Tensor:
        """States `[B, h, n, d]` turned as a `Turn` turns them; unchanged where the layer does not rotate."""
        turn = self.turns[layer]
        return states if turn is None else turn(states, positions, mode)

    def mean(self, layer: int, size: int, start: int, count: int, like: torch.Tensor) -> torch.Tensor:
        """The mean matrix `[size, size]` of the rotations at `start`, ..., `start + count - 1`."""
        unit = torch.eye(size, dtype=torch.float32, device=like.device)
        if self.turns[layer] is None:
            return unit
        states = unit.view(1, size, 1, size).expand(1, size, count, size).contiguous()
        positions = torch.arange(start, start + count, device=like.device)[None]
        return self.turn(layer, states, positions, "forward")[0].mean(1).mT


def find_rotary(decoder: torch.nn.Module, layers: list[int]) -> Rotary:
    """The rotations of these layers, found by running one token at two positions.

    k(37) must be R(37) k(0), or k(0) itself where a layer does not rotate.

    Raises:
        DcacheError: keys are neither (learned positions, say), or frequencies change with the length.
    """
    kind = _rope_type(decoder)
    if kind in {"dynamic", "longrope"}:
        raise DcacheError(
            "keys can be turned only by a rotation whose frequencies are fixed; this model's type is "
            f"{kind!r}. Use a policy with original positions that needs no rotation, such as snapkv or kvzip."
        )
    first, second = (_keys_at(decoder, layers, position) for position in TRIED)
    return Rotary({i: _turn_of(decoder, i, first[i], second[i]) for i in layers})


def _turn_of(decoder: torch.nn.Module, layer: int, first: Tried, second: Tried) -> Turn | None:
    if torch.allclose(first.keys, second.keys, atol=1e-5, rtol=1e-4):
        return None
    functions = _rotary_functions(decoder, first.module)
    positions = torch.full((1, 1), TRIED[1], device=first.keys.device)
    tolerance = 1e-4 if first.keys.dtype == torch.float32 else 5e-2
    # Some families' functions leave channels beyond their tables alone, others must be given those that turn.
    turns = []
    if functions is not None:
        turns = [Turn(*functions), Turn(*functions, functions[0](positions, first.keys)[0].shape[-1])]
    for turn in turns:
        try:
            turned = turn(first.keys, positions, "shift")
        except RuntimeError:
            continue
        if torch.allclose(turned.float(), second.keys.float(), atol=tolerance, rtol=tolerance):
            return turn
    raise DcacheError(
        f"layer {layer} of {type(decoder).__name__} places its tokens by something other than a rotation, "
        "so keys cannot be turned. Use a policy with original positions that needs no rotation, such as "
        "snapkv or kvzip."
    )


def attention_modules(decoder: torch.nn.Module, layers: list[int]) -> dict[int, torch.nn.Module]:
    """The attention module of each layer, found by running one token."""
    return {layer: tried.module for layer, tried in _keys_at(decoder, layers, 0).items()}


@dataclass(frozen=True)
class Tried:
    """Keys `[1, h, 1, d]` that a layer made of one token, and its attention module."""

    module: torch.nn.Module
    keys: torch.Tensor


class _TriedLayer(adapter.TaggedLayer):
    """A layer that notes its keys and its attention module."""

    tried: Tried

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> torch.Tensor:
        self.tried = Tried(module, key.detach().clone())
        # One token sees itself alone.
        return value.repeat_interleave(query.shape[1] // value.shape[1], 1).transpose(1, 2).contiguous()


class _TriedCache(adapter.LiveCache):
    """A cache for one token."""

    def __init__(self, decoder: torch.nn.Module) -> None:
        layers, self.compressed_layers = layers_for(decoder, lambda _: _TriedLayer())
        super().__init__(layers=layers)


@torch.no_grad()
def _keys_at(decoder: torch.nn.Module, layers: list[int], position: int) -> dict[int, Tried]:
    """The layers' keys of one token at a position."""
    attachment = adapter.attach(decoder)
    cache = _TriedCache(decoder)
    token = torch.ones(1, 1, dtype=torch.long, device=next(decoder.parameters()).device)
    positions = torch.full_like(token, position)
    decoder(input_ids=token, position_ids=positions, past_key_values=cache, use_cache=True)
    # The hooks live as long as the attachment.
    del attachment
    return {i: cache.layers[i].tried for i in layers}


def _rope_type(decoder: torch.nn.Module) -> str:
    """The type of a decoder's rotary embedding, as its config names it; "default" where it says nothing."""
    config: Any = decoder.config
    parameters = getattr(config, "rope_parameters", None) or {}
    return str(parameters.get("rope_type", "default"))


def _rotary_functions(decoder: torch.nn.Module, module: torch.nn.Module) -> Functions | None:
    """A decoder's rotary module and its family's function as two plain functions, None without either."""
    modules = dict(decoder.named_modules()).items()
    rotary: Any = next((m for n, m in modules if n.endswith(("rotary_emb", "rotary_pos_emb"))), None)
    apply = getattr(sys.modules[type(module).__module__], "apply_rotary_pos_emb", None)
    if rotary is None or apply is None:
        return None
    typed = "layer_type" in inspect.signature(rotary.forward).parameters
    extra = {"layer_type": "full_attention"} if typed else {}
    paired = len([n for n in inspect.signature(apply).parameters if n in {"q", "k", "query", "key"}]) == 2

    def tables(positions: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cos, sin = rotary(like, positions, **extra)
        return cos, sin

    def turn(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        turned: torch.Tensor = (
            apply(states, states, cos, sin)[0] if paired else apply(states, cos, sin, unsqueeze_dim=1)
        )
        return turned

    return tables, turn
