"""Sublayers by structure: attention, cross-attention, MLPs and fused projections of a block of any class.

| kind         | what it looks like                                                                      |
|--------------|-----------------------------------------------------------------------------------------|
| `attn`       | a module with a query and a key projection, or a fused one (`to_q`, `wk`, `img_qkv_proj`) |
| `cross_attn` | the same, where its class, its processor, its attribute or its widths say so            |
| `mlp`        | beside an attention: projections out of the stream's width, and back into it            |
| `fused`      | beside an attention: one projection of the attention's and the MLP's outputs together   |

A kind is not read from a number: `attn2` is self-attention in SD3.5 and cross-attention in Wan. What is found
here is confirmed on the first call, by `dcache.sites.block_flow`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

from torch import nn

from dcache.sites.blocks import FUSED, SUBLAYERS, TORCH_BLOCKS, key_of, methods_of

QUERY = frozenset(("q", "wq", "query", "qkv"))
KEY = frozenset(("k", "wk", "key", "kv", "qkv"))
VALUE = frozenset(("v", "wv", "value"))
# In the name of a query projection: attention and MLP are one module, with one projection into both.
PARALLEL = frozenset(("mlp", "ff"))
_STEM = re.compile(
    r"(?:^|_)(?:self_|cross_)?(?:attn|attention|attend|ffn|ff|feed_forward|mlp)\d*(?=_|$)|(?:^|_)(?:self|cross)$"
)


# Block -> its modules with what `_says` of them, and its sublayers.
_known: WeakKeyDictionary[nn.Module, tuple[list[Any], tuple[Part, ...]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Part:
    """A sublayer of a block, by its place in it.

    Attributes:
        kind: "attn", "cross_attn", "mlp" or "fused".
        path: attribute path of the module whose output is cached.
        feeders: attribute paths of the modules whose outputs only that module reads.
        declared: whether a row of `dcache.sites.blocks` says so, or the class is one of torch's own blocks.
        method: the method of that module whose result is cached, "" for its own output.
    """

    kind: str
    path: str
    feeders: tuple[str, ...] = ()
    declared: bool = False
    method: str = ""


class Widths(NamedTuple):
    """Sizes of the last dimension that a projection takes and gives."""

    into: int
    out: int


def parts_of(block: nn.Module) -> tuple[Part, ...]:
    """The sublayers of a block, in order of registration; those of a declared class as its row lists them."""
    # Read many times while a pipeline is enabled and first called. A LoRA layer, a processor or a row that is
    # registered changes them.
    mark = [(path, ref(module), *_says(module)) for path, module in block.named_modules()]
    known = _known.get(block)
    if known is None or known[0] != mark:
        known = _known[block] = mark, tuple(_parts(block, ""))
    return known[1]


def is_holder(module: nn.Module) -> bool:
    """True if a module has attention and an MLP or a fused projection of its own, or a row declares it."""
    if key_of(type(module)) in SUBLAYERS or key_of(type(module)) in FUSED:
        return True
    if not any(map(is_attention, module.children())):
        return False
    kinds = {part.kind for part in parts_of(module) if "." not in part.path}
    return "fused" in kinds or ("mlp" in kinds and bool(kinds & {"attn", "cross_attn"}))


def suffixes(parts: Iterable[Part]) -> dict[Part, str]:
    """Part -> what is appended to its kind in the site's name: "" for the first of a kind, or ".context".

    The first is the one whose attribute says nothing beside the kind (`ff` of `ff_in` and `ff`), else the
    one that is registered first.
    """
    ordered = list(parts)
    shared = _shared_prefix([part.path for part in ordered])
    texts: dict[Part, str] = {}
    for kind in dict.fromkeys(part.kind for part in ordered):
        same = [part for part in ordered if part.kind == kind]
        stems = {part: _stem(part.path[len(shared) :]) for part in same}
        if not same[0].declared:
            same.sort(key=lambda part: bool(stems[part]))
        used = {""}
        for place, part in enumerate(same):
            stem = stems[part] or str(place + 1)
            while place and stem in used:
                stem = f"{stem}_{place + 1}"
            texts[part] = f".{stem}" if place else ""
            used.add(stem)
    return texts


def projections(module: nn.Module) -> dict[str, Widths]:
    """The linear maps and convolutions among a module's children: name -> widths."""
    widths = ((name, _widths(child)) for name, child in module.named_children())
    return {name: width for name, width in widths if width is not None}


def queries(module: nn.Module) -> list[str]:
    """Names of a module's query projections, fused ones included."""
    return [name for name in projections(module) if QUERY & _words(name)]


def keys(module: nn.Module) -> list[str]:
    """Names of a module's key projections, fused ones included."""
    return [name for name in projections(module) if KEY & _words(name)]


def values(module: nn.Module) -> list[str]:
    """Names of a module's value projections that are not fused with others."""
    return [name for name in projections(module) if VALUE & _words(name)]


def is_attention(module: nn.Module) -> bool:
    """True if a module has a query and a key projection, or is torch's own attention."""
    return isinstance(module, nn.MultiheadAttention) or bool(queries(module) and keys(module))


def _parts(module: nn.Module, prefix: str) -> Iterator[Part]:
    name = key_of(type(module))
    if name in SUBLAYERS or name in FUSED:
        yield from _declared(module, prefix)
        return
    if isinstance(module, TORCH_BLOCKS):
        for kind, method in methods_of(module).items():
            yield Part(kind, prefix.rstrip("."), declared=True, method=method)
        return
    if is_attention(module):
        return
    children = dict(module.named_children())
    attentions = [child for child, part in children.items() if is_attention(part)]
    fused = _fused(children, attentions)
    if fused is not None:
        exit_name, feeders = fused
        yield Part("fused", prefix + exit_name, tuple(prefix + feeder for feeder in feeders))
        return
    widths = {width for attention in attentions for width in _query_widths(children[attention])}
    for child, part in children.items():
        if child in attentions:
            yield Part(_kind(child, part), prefix + child)
        elif any(is_attention(inner) for inner in part.modules()):
            yield from _parts(part, f"{prefix}{child}.")
        elif _is_mlp(part, widths):
            yield Part("mlp", prefix + child)


def _declared(module: nn.Module, prefix: str) -> Iterator[Part]:
    name = key_of(type(module))
    for kind, attributes in SUBLAYERS.get(name, {}).items():
        for attribute in attributes:
            if isinstance(getattr(module, attribute, None), nn.Module):
                yield Part(kind, prefix + attribute, declared=True)
    if name in FUSED:
        row = FUSED[name]
        yield Part("fused", prefix + row.exit, tuple(prefix + f for f in row.feeders), declared=True)


def _kind(name: str, module: nn.Module) -> str:
    into = projections(module)
    if any(QUERY & _words(q) and PARALLEL & _words(q) for q in into):
        return "fused"
    # OmniGen's `self_attn` has a cross-attention width, and Kandinsky's two attentions are of one class.
    if {"self", "cross"} & _words(name):
        return "attn" if "self" in _words(name) else "cross_attn"
    asked = getattr(module, "is_cross_attention", None)
    if isinstance(asked, bool):
        return "cross_attn" if asked else "attn"
    classes = (type(module).__name__, type(getattr(module, "processor", None)).__name__)
    if isinstance(module, nn.MultiheadAttention):
        return "attn" if module.kdim == module.embed_dim else "cross_attn"
    of_other_width = not {into[q].into for q in queries(module)} & {into[k].into for k in keys(module)}
    cross = of_other_width or any("cross" in text.lower() for text in classes)
    return "cross_attn" if cross else "attn"


def _query_widths(attention: nn.Module) -> set[int]:
    if isinstance(attention, nn.MultiheadAttention):
        return {attention.embed_dim}
    return {w.into for name, w in projections(attention).items() if QUERY & _words(name)}


def _is_mlp(module: nn.Module, widths: set[int]) -> bool:
    """Whether projections lead out of one of these widths and back into it; gated ones halve between."""
    if _widths(module) is not None:
        return False
    # Counted, for a mixture of experts has hundreds of equal ones.
    inner = Counter(w for w in map(_widths, module.modules()) if w is not None)
    return any(
        enter.into == leave.out == width and leave.into in {enter.out, enter.out // 2}
        for width in widths
        for enter, leave in product(inner, inner)
        if enter != leave or inner[enter] > 1
    )


def _fused(children: dict[str, nn.Module], attentions: list[str]) -> tuple[str, list[str]] | None:
    """The projection that takes the outputs of attention and MLP together, and what feeds only it.

    Its input is as wide as the attention's output and the output of a projection beside it, or half of that
    (gated), together.
    """
    widths = {name: w for name, child in children.items() if (w := _widths(child)) is not None}
    for attention in attentions:
        into = projections(children[attention])
        query = next((w for q, w in into.items() if QUERY & _words(q)), None)
        if query is None:
            continue
        stream = {name: w for name, w in widths.items() if w.into == query.into}
        for leave, out in widths.items():
            rest = out.into - query.out if out.out == query.into else 0
            enter = next((n for n, w in stream.items() if n != leave and rest in {w.out, w.out // 2}), None)
            if enter is not None:
                beside = [n for n, child in children.items() if n == enter or _is_activation(child)]
                return leave, [*beside, *attentions]
    return None


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.activation"


def _widths(module: nn.Module) -> Widths | None:
    # Quantised layers and those of LoRA are no `nn.Linear`, and have its attributes, and parts of their own.
    if not hasattr(module, "base_layer") and any(_widths(part) is not None for part in module.children()):
        return None
    for into, out in (("in_features", "out_features"), ("in_channels", "out_channels")):
        sizes = getattr(module, into, None), getattr(module, out, None)
        if all(isinstance(size, int) for size in sizes):
            return Widths(*sizes)  # type: ignore[arg-type]
    return None


def _says(module: nn.Module) -> tuple[Any, ...]:
    """What else than its parts a module's sublayers depend on."""
    own, name = vars(module), key_of(type(module))
    return type(own.get("processor")), own.get("is_cross_attention"), SUBLAYERS.get(name), FUSED.get(name)


def _words(name: str) -> set[str]:
    return set(name.lower().split("_"))


def _stem(path: str) -> str:
    texts = [_STEM.sub("", name).strip("_") for name in path.split(".")]
    return "_".join(text for text in texts if text)


def _shared_prefix(paths: list[str]) -> str:
    """The parents that all paths have in common, with the last dot."""
    parents = [path.rpartition(".")[0].split(".") for path in paths]
    shared = ""
    for level in zip(*parents, strict=False):
        if len(set(level)) > 1 or not level[0]:
            break
        shared += f"{level[0]}."
    return shared
