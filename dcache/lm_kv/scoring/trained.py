"""Scores by trained weights: a small module says what each token is worth."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch.nn import functional as F

from dcache.errors import DcacheError
from dcache.lm_kv.scoring.observers import Nothing, Observed, State
from dcache.lm_kv.scoring.scorers import Context
from dcache.lm_kv.storage.stored import Stored
from dcache.util.files import as_path, read_tensors

FORMAT = "dcache.lm_kv.scorer 1"
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}
# What a module reads of a token: the input of its layer's attention, or what a KV head stores of it.
READS = ("hidden", "keys", "values", "keys values")
# (layer, inputs `[..., n]`) -> scores: of hidden states `[..., h]`, of keys and values `[..., 1]`.
Module: TypeAlias = Callable[[int, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Weights:
    """Linear layers with an activation between them, for each layer of a model.

    Attributes:
        path: of the file.
        reads: one of READS.
        activation: one of ACTIVATIONS.
        tensors: `L.i.weight` `[out, in]` and, where there is one, `L.i.bias` `[out]`, for layer L of the
            model and linear layer i from 0.
    """

    path: Path
    reads: str
    activation: str
    tensors: Mapping[str, torch.Tensor]

    def __call__(self, layer: int, inputs: torch.Tensor) -> torch.Tensor:
        """Scores, float32 `[..., out]`, of inputs `[..., n]`.

        Raises:
            DcacheError: the file has no weights for the layer, or weights for inputs of another size.
        """
        states, index = inputs.float(), 0
        while f"{layer}.{index}.weight" in self.tensors:
            weight = self._tensor(f"{layer}.{index}.weight", inputs)
            if weight.shape[1] != states.shape[-1]:
                raise DcacheError(
                    f"{self.path} has {layer}.{index}.weight for {weight.shape[1]} numbers, and {self.reads} "
                    f"of this model give {states.shape[-1]}: it was trained for another model"
                )
            bias = f"{layer}.{index}.bias"
            states = F.linear(
                states if index == 0 else ACTIVATIONS[self.activation](states),
                weight,
                self._tensor(bias, inputs) if bias in self.tensors else None,
            )
            index += 1
        if index == 0:
            raise DcacheError(
                f"{self.path} has no weights for layer {layer}: it was trained for another model"
            )
        return states

    def _tensor(self, name: str, like: torch.Tensor) -> torch.Tensor:
        return self.tensors[name].to(like.device, torch.float32)


def load(path: str | os.PathLike[str]) -> Weights:
    """Read a scorer's weights; a file that did not change since the last time is not read again.

    Raises:
        DcacheError: the file cannot be read, or is none of these.
    """
    place = as_path(path, "scorer")
    try:
        state = place.stat()
    except OSError as error:
        raise DcacheError(f"cannot read the scorer {place}: {error.strerror}") from None
    return _loaded(place, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _loaded(path: Path, changed: int, size: int) -> Weights:
    tensors, about = read_tensors(path, "scorer")
    reads, activation = about.get("reads", "hidden"), about.get("activation", "silu")
    if about.get("format") != FORMAT or reads not in READS or activation not in ACTIVATIONS:
        raise DcacheError(
            f"{path} is not a scorer: expected the metadata format={FORMAT!r}, reads as one of "
            f"{', '.join(READS)}, and activation as one of {', '.join(ACTIVATIONS)}, got {about}"
        )
    return Weights(path, reads, activation, tensors)


@dataclass(frozen=True)
class InputScores(Nothing):
    """Scores every token by what its layer's attention is given, when it comes.

    State: `trained` float32 `[B, h, T]`, by a token's index among its row's true tokens, T at least the
    columns; 4 bytes for each column and KV head, which stay when its token is evicted.
    """

    needs_hidden: ClassVar[bool] = True
    module: Module

    def observe(self, state: State, call: Observed) -> State:
        """Score a call's tokens."""
        if call.hidden is None or call.hidden.shape[:2] != call.valid.shape:
            raise DcacheError(
                "a trained scorer reads the inputs of attention row by row, which do not come so here: fill "
                "the cache by calls of the model, without prepacking"
            )
        scores = self.module(call.layer, call.hidden).float()
        if scores.ndim != 3 or scores.shape[:2] != call.valid.shape:
            raise DcacheError(
                f"a scorer must give [rows, tokens, KV heads], got {tuple(scores.shape)} of inputs "
                f"{tuple(call.hidden.shape)}"
            )
        before = state.get("trained", scores.new_zeros(len(scores), scores.shape[2], 0))
        # One place more, for pads: they have the positions of true tokens, which must win.
        after = F.pad(before, (0, max(0, call.columns - before.shape[2]) + 1))
        places = call.positions.masked_fill(~call.valid, after.shape[2] - 1)
        after = after.scatter(2, places[:, None].expand_as(scores.mT), scores.mT)
        return {"trained": after[..., :-1].contiguous()}

    def crop(self, state: State, end: torch.Tensor) -> State:
        """Scores behind `end` are forgotten."""
        return {name: scores[:, :, : int(end.max())] for name, scores in state.items()}


@dataclass(frozen=True)
class TrainedScores:
    """What `InputScores` noted."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """float32 `[B, h, M]`."""
        scores = context.state["trained"]
        if scores.shape[1] != stored.keys.shape[1]:
            raise DcacheError(
                f"the scorer gives {scores.shape[1]} scores for a token, and layer {context.layer} has "
                f"{stored.keys.shape[1]} KV heads: it was trained for another model"
            )
        return scores.gather(2, stored.positions.clamp_max(scores.shape[2] - 1))


@dataclass(frozen=True)
class StoredScores:
    """Scores every token by what a KV head stores of it, when tokens are evicted.

    Attributes:
        module: gives `[..., 1]`.
        reads: "keys", "values" or "keys values", keys as they are turned.
    """

    module: Module
    reads: str
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """float32 `[B, h, M]`."""
        parts = {"keys": stored.keys, "values": stored.values}
        return self.module(context.layer, torch.cat([parts[name] for name in self.reads.split()], -1))[..., 0]
