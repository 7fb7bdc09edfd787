"""A cache's layers as tensors with names, and back: what a safetensors file has."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.codecs.cachegen import CacheGen, cachegen
from dcache.lm_kv.codecs.codec import Codec, Plain
from dcache.lm_kv.layers.coded import check_plain, checksum, coded, decoded
from dcache.lm_kv.layers.layer import LayerCache
from dcache.lm_kv.layers.together import link_together
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.model.facts import difference, facts_of
from dcache.lm_kv.model.text import Text
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.registry import available, make
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.store import LayerStore
from dcache.lm_kv.storage.tail import Tail
from dcache.util.files import read_tensors, write

FORMAT = "dcache.lm_kv.cache 2"
# The same with keys and values by a codec for files.
CODED = FORMAT + " cachegen"
# A segment's tensors that it may lack.
OPTIONAL = ("positions", "first", "bias", "score")
# A policy's fields that KVCache can set beside the preset's own options.
FIELDS = ("budget", "allocation", "floor", "dense_layers", "every")


def describe(policy: Policy) -> dict[str, Any]:
    """A preset's policy as plain values.

    Raises:
        DcacheError: it is no registered preset's, was made of a function, or has a codec that files lack.
    """
    if policy.name in available("sharing"):
        raise DcacheError(
            f"a cache that {policy.name} made cannot be saved, for a file has no text that rows share: save "
            "the cache of the prefix, and begin behind it anew"
        )
    if policy.name not in available("policy"):
        raise DcacheError(
            f"only caches of registered policies can be saved, got {policy.name!r}: register a function of "
            "plain options by lm_kv.preset, or choose a policy of lm_kv.available('policy')"
        )
    plain = (str, int, float, tuple, type(None))
    strange = [name for name, value in policy.parameters.items() if not isinstance(value, plain)]
    if strange:
        raise DcacheError(
            f"a file cannot have {policy.name}'s {strange[0]}: only caches whose policy was made of numbers, "
            "words and paths can be saved"
        )
    own = {name: getattr(policy, name) for name in FIELDS}
    described = {"name": policy.name, "parameters": dict(policy.parameters), "fields": own}
    # What the preset itself stores by need not be said.
    if isinstance(policy.codec, Plain) or policy.codec == make(policy.name, **policy.parameters).codec:
        return described
    codec: Any = policy.codec
    name = getattr(codec, "name", None)
    if name not in available("policy"):
        raise DcacheError(
            f"{codec!r} beside {policy.name} cannot be saved, for a file knows codecs by their policy's "
            "name: choose another codec such as lm_kv.kivi(), or the policy that stores so by itself"
        )
    # Fields that are not compared are no choice: what a codec knows of a layer.
    options = {field.name: getattr(codec, field.name) for field in fields(codec) if field.compare}
    return {**described, "codec": {"name": name, "options": options}}


def read_policy(described: Mapping[str, Any]) -> Policy:
    """The policy that `describe` described."""
    own = dict(described["fields"])
    own["dense_layers"] = tuple(own["dense_layers"])
    parameters = {k: _frozen(v) for k, v in described["parameters"].items()}
    if "codec" in described:
        own["codec"] = make(described["codec"]["name"], **described["codec"]["options"]).codec
    return replace(make(described["name"], **parameters), **own)


def _frozen(value: Any) -> Any:
    """JSON's lists as tuples."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


@dataclass(frozen=True)
class Saved:
    """The content of a cache file.

    Attributes:
        path: the file.
        policy: the cache's.
        model: facts of the model.
        complete: whether the text's ids are known.
        tensors: by name.
    """

    path: Path
    policy: Policy
    model: dict[str, Any]
    complete: bool
    tensors: dict[str, torch.Tensor]

    def fill(self, decoder: torch.nn.Module, layers: Sequence[LayerCache], text: Text) -> None:
        """Fill the layers and the text of a new cache, made for this decoder.

        Raises:
            DcacheError: the file is of a model of another class or of other sizes.
        """
        differ = difference(self.model, facts_of(decoder, [layer.index for layer in layers]))
        if differ is not None:
            raise DcacheError(
                f"{self.path} is a cache of a model with {differ[0]}, this one has {differ[1]}: load it with "
                "the model that filled it"
            )
        device = next(decoder.parameters()).device
        placed = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        for layer in layers:
            restore_layer(layer, _with_borrowed(layer, placed))
        link_together([layer for layer in layers if layer.index in layer.shared.places])
        if "text.ids" in placed:
            text.append(placed["text.ids"], placed["text.valid"])
            text.complete = self.complete


def save(
    path: Path,
    policy: Policy,
    decoder: torch.nn.Module,
    layers: Sequence[LayerCache],
    text: Text,
    codec: CacheGen | None = None,
) -> Path:
    """Write a cache of this decoder to a safetensors file, whole or not at all.

    Raises:
        DcacheError: nothing is stored, layers are the library's, or the policy or its numbers cannot be
            described.
    """
    from safetensors.torch import save_file

    if len(layers) < layers[0].shared.layers:
        raise DcacheError(
            f"{type(decoder).__name__} has layers whose cache is the library's; a cache can be saved where "
            "every layer has full attention"
        )
    model = facts_of(decoder, [layer.index for layer in layers])
    header = {"policy": describe(policy), "model": model, "complete": text.complete}
    if codec is not None:
        codec = check_plain(policy, codec)
    tensors: dict[str, torch.Tensor] = {}
    for layer in layers:
        named = layer_tensors(layer)
        if codec is not None:
            named = coded(named, codec, layer.index, layer.shared.layers)
        tensors |= {f"layer{layer.index}.{name}": tensor for name, tensor in named.items()}
    if text.ids is not None and text.valid is not None:
        tensors |= {"text.ids": text.ids, "text.valid": text.valid}
    copies = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    if codec is not None:
        options = {field.name: getattr(codec, field.name) for field in fields(codec)}
        header |= {"codec": options, "layers": layers[0].shared.layers, "check": checksum(copies)}
    metadata = {"format": FORMAT if codec is None else CODED, "header": json.dumps(header)}
    return write(path, lambda temporary: save_file(copies, temporary, metadata=metadata))


def load(path: Path) -> Saved:
    """Read a cache file that `save` wrote.

    Raises:
        DcacheError: the file cannot be read, is none of these, or is damaged.
    """
    tensors, metadata = read_tensors(path, "cache")
    if metadata.get("format") not in (FORMAT, CODED):
        raise DcacheError(f"{path} is not a cache that KVCache.save wrote: expected the format {FORMAT!r}")
    header = json.loads(metadata["header"])
    if metadata["format"] == CODED:
        tensors = _decoded(path, header, tensors)
    return Saved(path, read_policy(header["policy"]), header["model"], header["complete"], tensors)


def _decoded(
    path: Path, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """A file's tensors as they were before a codec for files.

    Raises:
        DcacheError: they are not those that were written.
    """
    if checksum(tensors) != header.get("check"):
        raise DcacheError(f"{path} is damaged: its content is not what was written. Save the cache again")
    codec = cachegen(**{name: _frozen(value) for name, value in header["codec"].items()})
    out = {name: tensor for name, tensor in tensors.items() if name.startswith("text.")}
    for layer in header["model"]["full_attention"]:
        prefix = f"layer{layer}."
        named = decoded(_under(prefix, tensors), codec, layer, header["layers"])
        out |= {prefix + name: tensor for name, tensor in named.items()}
    return out


def layer_tensors(layer: LayerCache) -> dict[str, torch.Tensor]:
    """All tensors of a layer that has stored something, by name."""
    store = layer.store
    if store is None:
        raise DcacheError("this cache holds nothing yet: run the model with it first")
    tensors = {
        "seen": store.seen,
        "offset": store.offset,
        "counts": torch.tensor([store.columns, layer.since, layer.evictions, store.tail.locked]),
        "scaling": torch.tensor([layer.logits.scaling], dtype=torch.float64),
        "tail.keys": store.tail.keys,
        "tail.values": store.tail.values,
        "tail.positions": store.tail.positions,
        "tail.valid": store.tail.valid,
    }
    optional = {"tail.score": store.tail.score, "tail.inputs": store.tail.inputs, "sinks": layer.logits.sinks}
    if layer.logits.softcap is not None:
        optional["softcap"] = torch.tensor([layer.logits.softcap], dtype=torch.float64)
    for number, segment in enumerate(store.segments):
        for part, encoded in (("keys", segment.keys), ("values", segment.values)):
            named = segment.owned(encoded)
            tensors |= {f"{number}.{part}{'.' if n else ''}{n}": tensor for n, tensor in named.items()}
        tensors[f"{number}.lengths"] = segment.lengths
        if segment.codec == layer.shared.policy.reducer.lower:
            tensors[f"{number}.lower"] = torch.ones(1, dtype=torch.bool)
        optional |= {f"{number}.{name}": getattr(segment, name) for name in OPTIONAL}
        tensors |= {f"{number}.index.{name}": part for name, part in (segment.index or {}).items()}
        if segment.index == {}:  # Its selector looks at the keys themselves.
            tensors[f"{number}.indexed"] = torch.ones(1, dtype=torch.bool)
    tensors |= {f"state.{name}": tensor for name, tensor in layer.state.items()}
    return tensors | {name: tensor for name, tensor in optional.items() if tensor is not None}


def _under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _with_borrowed(layer: LayerCache, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A layer's tensors, and those that another one's segments have for it."""
    joint, lender = layer.shared.policy.joint, layer.shared.lender(layer.index)
    own = _under(f"layer{layer.index}.", tensors)
    if joint is None or lender == layer.index:
        return own
    other = _under(f"layer{lender}.", tensors)
    return {**{n: t for n, t in other.items() if n.rpartition(".")[2] in joint.shared}, **own}


def restore_layer(layer: LayerCache, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill a new layer with what `layer_tensors` gave."""
    score, inputs = tensors.get("tail.score"), tensors.get("tail.inputs")
    beside = None if score is None else tuple(score.shape[3:])
    keys, values = tensors["tail.keys"], tensors["tail.values"]
    store = LayerStore(keys, values, beside, layer.shared.width(layer.index))
    valid = None if bool(tensors["tail.valid"].all()) else tensors["tail.valid"]
    store.tail.append(keys, values, tensors["tail.positions"], valid, inputs)
    if score is not None:
        store.tail.set_scores(score)
    columns, since, evictions, store.tail.locked = tensors["counts"].tolist()
    store.seen, store.columns, store.offset = tensors["seen"], columns, tensors["offset"]
    numbers = sorted({int(name.partition(".")[0]) for name in tensors if name[0].isdigit()})
    codec, lower = layer.shared.codec(layer.index), layer.shared.policy.reducer.lower
    codecs = [codec if lower is None or f"{n}.lower" not in tensors else lower for n in numbers]
    pairs = zip(numbers, codecs, strict=True)
    joint, lends = layer.shared.policy.joint, layer.shared.lender(layer.index) == layer.index
    lent = frozenset[str]() if joint is None or lends else joint.shared
    store.segments = tuple(_segment(tensors, f"{n}.", codec, store.tail, lent) for n, codec in pairs)
    softcap = float(tensors["softcap"]) if "softcap" in tensors else None
    logits = Logits(float(tensors["scaling"]), softcap, tensors.get("sinks"))
    layer.restore(store, _under("state.", tensors), logits, since, evictions)


def _segment(
    tensors: Mapping[str, torch.Tensor], prefix: str, codec: Codec, tail: Tail, lent: frozenset[str]
) -> Segment:
    """The segment whose tensors have this prefix."""

    def encoded(part: str) -> dict[str, torch.Tensor]:
        start = prefix + part
        return {n.removeprefix(start).removeprefix("."): t for n, t in tensors.items() if n.startswith(start)}

    keys, values, paired = encoded("keys"), encoded("values"), getattr(codec, "paired", frozenset[str]())
    if values.keys().isdisjoint(paired):
        values |= {name: tensor for name, tensor in keys.items() if name in paired}
    return Segment(
        keys=codec.restore(keys, tail.keys),
        values=codec.restore(values, tail.values),
        lengths=tensors[f"{prefix}lengths"],
        codec=codec,
        index=_under(f"{prefix}index.", tensors) or ({} if f"{prefix}indexed" in tensors else None),
        lent=lent,
        **{name: tensors.get(prefix + name) for name in OPTIONAL},
    )
