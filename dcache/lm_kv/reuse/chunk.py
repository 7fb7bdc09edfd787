"""A chunk of text with its keys and values, computed once and put anywhere into other texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.facts import difference, facts_of
from dcache.lm_kv.model.families import decoder_of, layers_for
from dcache.lm_kv.model.partial import check_all_full, compute
from dcache.lm_kv.model.states import States
from dcache.lm_kv.reuse.context import Context, Listener, name_of
from dcache.lm_kv.reuse.known import known_of
from dcache.util.bytes import bytes_of, format_bytes
from dcache.util.files import as_path, read_tensors, write

FORMAT = "dcache.lm_kv.chunk 1"
# A context's tensors.
SUMS = ("lengths", "inter", "intra", "tokens")


@dataclass(frozen=True, eq=False, repr=False)
class Chunk:
    """Keys and values of one text, as if it stood at the begin of a text: keys are turned to 0, 1, ...

    Attributes:
        ids: int64 `[1, n]`.
        states: its keys and values.
        model: facts of the model that computed them.
        context: what it attended to before itself; None where it was computed by itself.
    """

    ids: torch.Tensor
    states: States
    model: Mapping[str, Any]
    context: Context | None = None

    def __len__(self) -> int:
        return self.ids.shape[1]

    def __repr__(self) -> str:
        behind = "" if self.context is None else ", computed behind other text"
        return f"Chunk({len(self)} tokens, {format_bytes(self.nbytes)}{behind})"

    @property
    def name(self) -> str:
        """A digest of the text: chunks with the same ids have the same."""
        return name_of(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of ids, keys and values."""
        return bytes_of([self.ids, *self.states.keys.values(), *self.states.values.values()])

    def to(self, device: torch.device | str) -> Chunk:
        """The same on another device; `join` moves what it needs by itself."""
        keys = {layer: x.to(device) for layer, x in self.states.keys.items()}
        values = {layer: x.to(device) for layer, x in self.states.values.items()}
        return replace(self, ids=self.ids.to(device), states=States(keys, values))

    def save(self, path: str | Path) -> Path:
        """Write the chunk to a safetensors file.

        Raises:
            DcacheError: the file cannot be written.
        """
        from safetensors.torch import save_file

        tensors = {"ids": self.ids}
        for layer, keys in self.states.keys.items():
            tensors |= {f"keys.{layer}": keys, f"values.{layer}": self.states.values[layer]}
        names = None
        if self.context is not None:
            names = self.context.names
            tensors |= {f"context.{part}": getattr(self.context, part) for part in SUMS}
        copies = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
        metadata = {"format": FORMAT, "header": json.dumps({"model": dict(self.model), "behind": names})}
        place = as_path(path, "chunk")
        return write(place, lambda temporary: save_file(copies, temporary, metadata=metadata))

    @classmethod
    def load(cls, path: str | Path) -> Chunk:
        """Read a chunk that `save` wrote, into host memory.

        Raises:
            DcacheError: the file is no chunk's.
        """
        tensors, metadata = read_tensors(as_path(path, "chunk"), "chunk")
        if metadata.get("format") != FORMAT:
            raise DcacheError(f"{path} is not a chunk that Chunk.save wrote: expected the format {FORMAT!r}")
        header = json.loads(metadata["header"])
        layers = sorted(int(name.removeprefix("keys.")) for name in tensors if name.startswith("keys."))
        keys, values = ({i: tensors[f"{side}.{i}"] for i in layers} for side in ("keys", "values"))
        context = None
        if header["behind"] is not None:
            sums = {part: tensors[f"context.{part}"] for part in SUMS}
            context = Context(tuple(header["behind"]), **sums)
        return cls(tensors["ids"], States(keys, values), header["model"], context)

    def check(self, facts: Mapping[str, Any]) -> None:
        """Refuse a model that did not compute this chunk.

        Raises:
            DcacheError: it differs in class or sizes.
        """
        differ = difference(self.model, facts)
        if differ is not None:
            raise DcacheError(
                f"a chunk is of a model with {differ[0]}, this one has {differ[1]}: encode the text with the "
                "model that reads it"
            )


def encode(model: Any, ids: torch.Tensor, behind: Sequence[Chunk | torch.Tensor] = ()) -> Chunk:
    """Compute a text, to be put into other texts by `join`.

    Args:
        model: a causal language model of transformers, or what wraps one.
        ids: int64 `[n]` or `[1, n]`, one text without pads.
        behind: chunks or ids of the text before it, which it sees and which are computed with it; what it
            attends to there is kept with the chunk. Empty to compute it by itself.

    Raises:
        DcacheError: ids are not one text's, a layer's attention is not full, or keys behind other text
            cannot be turned.
    """
    decoder = decoder_of(model)
    check_all_full(decoder)
    row = row_of(ids, decoder, "ids")
    if not isinstance(behind, list | tuple):
        raise DcacheError(
            f"behind must be a list of the chunks or ids before the text, got {type(behind).__name__}: write "
            "behind=[...]"
        )
    before = [row_of(part.ids if isinstance(part, Chunk) else part, decoder, "behind") for part in behind]
    states, text = States(), torch.cat([*before, row], 1)
    tokens = torch.arange(text.shape[1], device=row.device)
    start = text.shape[1] - row.shape[1]
    if not start:
        compute(decoder, states, text, tokens)
        return Chunk(row, States(states.keys, states.values), facts_for(decoder))
    known, listener = known_of(decoder), Listener([part.shape[1] for part in before])
    compute(decoder, states, text, tokens[:start])
    compute(decoder, states, text, tokens[start:], watch=listener)
    part = states.part(start, text.shape[1])
    back = torch.full_like(row, -start)
    keys = {layer: known.rotary.turn(layer, x, back, "shift") for layer, x in part.keys.items()}
    context = listener.context([name_of(part) for part in before])
    return Chunk(row, States(keys, part.values), facts_for(decoder), context)


def facts_for(decoder: torch.nn.Module) -> dict[str, Any]:
    """What a model must have in common with the one that computed a chunk."""
    _, full = layers_for(decoder, lambda _: object())  # type: ignore[arg-type, return-value]
    return facts_of(decoder, full)


def row_of(ids: Any, decoder: torch.nn.Module, name: str) -> torch.Tensor:
    """One text's ids as int64 `[1, n]` on the decoder's device.

    Raises:
        DcacheError: they are something else.
    """
    if not isinstance(ids, torch.Tensor) or ids.dtype not in (torch.int64, torch.int32):
        what = f"dtype {ids.dtype}" if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise DcacheError(f"{name} must be a tensor of ids, int64 [1, n], got {what}")
    if ids.ndim not in (1, 2) or (ids.ndim == 2 and len(ids) != 1) or not ids.shape[-1]:
        raise DcacheError(
            f"{name} must be one text without pads, int64 [1, n], got the shape {tuple(ids.shape)}: encode "
            "each text by itself"
        )
    return ids.reshape(1, -1).long().to(next(decoder.parameters()).device)
