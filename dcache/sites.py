"""Sites: which regions of a model can be remembered, found by looking at the model.

A site is named by kind and depth, never by module path, so that a schedule moves between sibling models:
`model`, `trunk`, `run:3-9` (blocks 3 to 9, both included), `block:3`, `attn:3`, `cross_attn:3`, `mlp:3`,
`mlp.context:3` (the text stream's own), `fused:3`, `bracket:2` (everything between the source and the sink of
a UNet's skip number 2, counted from the outermost). A specification is such a name, or a kind alone for all
of that kind, or `sublayers`, or `auto` (the trunk, else the outermost bracket, else the model).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from torch import nn

from dcache.adapters.blocks import FUSED, SUBLAYERS
from dcache.errors import DcacheError
from dcache.liveness import SITE_NAME

SUBLAYER_KINDS = ("attn", "cross_attn", "mlp", "fused")
_KINDS = ("block", "bracket", *SUBLAYER_KINDS)


@dataclass(frozen=True)
class Site:
    """One region. `first` and `last` are block depths (skip level for brackets), both included."""

    name: str
    kind: str
    first: int = 0
    last: int = 0

    @property
    def is_run(self) -> bool:
        """Whether it covers whole blocks of the trunk."""
        return self.kind in ("trunk", "run", "block")


@dataclass(frozen=True, eq=False)
class Sublayer:
    """A sublayer module found inside a block; `hollow` modules need not run when it is predicted."""

    name: str
    kind: str
    depth: int
    module: nn.Module
    hollow: tuple[nn.Module, ...] = ()


@dataclass(frozen=True, eq=False)
class Skip:
    """One skip connection of a UNet: what runs strictly between its source and its sink.

    Attributes:
        sink: the module whose first argument is the channel concatenation (inner, skip).
        channels: channels of the skip at the end of that argument.
        inside: outermost modules of the region, in execution order.
    """

    sink: nn.Module
    channels: int
    inside: tuple[nn.Module, ...]


@dataclass(eq=False)
class Structure:
    """What was found in a model.

    Attributes:
        blocks: the trunk, in order of registration.
        sublayers: every declared sublayer.
        skips: the UNet's skips, outermost first; empty where the model is no UNet.
        paths: module path of everything above, to notice replaced modules.
    """

    model: nn.Module
    blocks: list[nn.Module] = field(default_factory=list)
    sublayers: list[Sublayer] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)

    def select(self, specs: Sequence[str]) -> list[Site]:
        """Turn site specifications into sites.

        Raises:
            DcacheError: a specification is unknown, names something this model lacks, or overlaps another.
        """
        sites: dict[str, Site] = {}
        for spec in specs:
            for site in self._expand(str(spec)):
                sites[site.name] = site
        found = list(sites.values())
        if not found:
            raise DcacheError(f"no site of {list(specs)} exists in {self._what()}; it has: {self.offers()}")
        self._check_overlap(found)
        return found

    def offers(self) -> str:
        """The specifications this model understands, for messages."""
        parts = ["model"]
        if self.blocks:
            last = len(self.blocks) - 1
            parts += ["trunk", f"run:A-B and block:N with depths 0 to {last}"]
        kinds = [k for k in SUBLAYER_KINDS if any(s.kind == k for s in self.sublayers)]
        parts += kinds
        if self.skips:
            parts.append(f"bracket:N with N from 0 to {len(self.skips) - 1}")
        return ", ".join(parts)

    def _expand(self, spec: str) -> Iterable[Site]:
        if spec == "auto":
            spec = "trunk" if self.blocks else "bracket:0" if self.skips else "model"
        match = SITE_NAME.fullmatch(spec)
        if match is None and spec not in ("sublayers", *_KINDS):
            raise DcacheError(f"site {spec!r} is not understood; {self._what()} has: {self.offers()}")
        if spec == "model":
            return [Site("model", "model")]
        if spec.startswith(("trunk", "run", "block")):
            return self._runs(spec)
        if spec.startswith("bracket"):
            return self._bracket(int(spec.partition(":")[2] or 0))
        chosen = [s for s in self.sublayers if spec in ("sublayers", s.kind, s.name)]
        if not chosen:
            raise DcacheError(
                f"site {spec!r} does not exist in {self._what()}: no such sublayer is declared for its "
                f"blocks; it has: {self.offers()}"
            )
        return [self._site(s) for s in chosen]

    def _runs(self, spec: str) -> Iterable[Site]:
        if not self.blocks:
            hint = "a UNet has brackets instead" if self.skips else "use sites='model'"
            raise DcacheError(
                f"site {spec!r} needs a list of blocks and {self._what()} has none: {hint}; it has: "
                f"{self.offers()}"
            )
        end = len(self.blocks) - 1
        if spec == "trunk":
            return [Site("trunk", "trunk", 0, end)]
        if spec == "block":
            return [Site(f"block:{i}", "block", i, i) for i in range(end + 1)]
        kind, _, where = spec.partition(":")
        first, last = (int(depth) for depth in (where.split("-") if kind == "run" else (where, where)))
        if not 0 <= first <= last <= end:
            raise DcacheError(f"site {spec!r} is out of range: {self._what()} has blocks 0 to {end}")
        return [Site(spec, kind, first, last)]

    def _bracket(self, level: int) -> Iterable[Site]:
        if not self.skips:
            raise DcacheError(
                f"site 'bracket:{level}' needs a UNet with skips and {self._what()} has none; it has: "
                f"{self.offers()}"
            )
        if level >= len(self.skips):
            raise DcacheError(
                f"site 'bracket:{level}' is out of range: {self._what()} has skips 0 to {len(self.skips) - 1}"
            )
        return [Site(f"bracket:{level}", "bracket", level, level)]

    def _check_overlap(self, sites: Sequence[Site]) -> None:
        runs = sorted((s for s in sites if s.is_run), key=lambda s: (s.first, s.last))
        for a, b in pairwise(runs):
            if b.first <= a.last:
                raise DcacheError(f"sites {a.name!r} and {b.name!r} overlap: give runs that share no block")
        brackets = [s for s in sites if s.kind == "bracket"]
        if len(brackets) > 1:
            raise DcacheError(
                f"brackets nest, so only one can be remembered at a time; got {[s.name for s in brackets]}"
            )

    def _what(self) -> str:
        return type(self.model).__name__

    @staticmethod
    def _site(sublayer: Sublayer) -> Site:
        return Site(sublayer.name, sublayer.kind, sublayer.depth, sublayer.depth)


def discover(model: nn.Module) -> Structure:
    """Look at a model and list the regions that can be remembered. Pure: nothing is run or changed."""
    found = Structure(model)
    found.skips = find_skips(model)
    if not hasattr(model, "down_blocks"):
        found.blocks = find_blocks(model)
    found.sublayers = list(find_sublayers(model, found.blocks))
    return found


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The trunk: the model's direct block lists; else the longest list of the shallowest level with any."""
    level = [model]
    while level:
        lists = [c for m in level for c in m.children() if _is_block_list(c)]
        if lists:
            if level[0] is not model:
                lists = [max(lists, key=lambda c: len(list(c.children())))]
            return [block for blocks in lists for block in blocks.children()]
        level = [c for m in level for c in m.children()]
    return []


def find_sublayers(model: nn.Module, blocks: Sequence[nn.Module]) -> Iterable[Sublayer]:
    """Declared sublayers of the trunk, with their block's depth; without a trunk of the model, in order."""
    depth_of = {inner: i for i, block in enumerate(blocks) for inner in block.modules()}
    order = 0
    for module in model.modules():
        name = type(module).__name__
        if name not in SUBLAYERS and name not in FUSED:
            continue
        if blocks and module not in depth_of:
            continue
        depth = depth_of.get(module, order)
        order += 1
        for kind, attributes in SUBLAYERS.get(name, {}).items():
            for attribute in attributes:
                sub = getattr(module, attribute, None)
                if isinstance(sub, nn.Module):
                    label = f"{kind}.context:{depth}" if attribute.endswith("_context") else f"{kind}:{depth}"
                    yield Sublayer(label, kind, depth, sub)
        if name in FUSED:
            fused = FUSED[name]
            hollow = tuple(getattr(module, h) for h in fused.hollow)
            yield Sublayer(f"fused:{depth}", "fused", depth, getattr(module, fused.exit), hollow)


def find_skips(model: nn.Module) -> list[Skip]:
    """The skips of a UNet of diffusers' shape, outermost first; empty where the shape is another."""
    downs, ups = getattr(model, "down_blocks", None), getattr(model, "up_blocks", None)
    conv_in = getattr(model, "conv_in", None)
    if not isinstance(downs, nn.ModuleList) or not isinstance(ups, nn.ModuleList) or conv_in is None:
        return []
    sources: list[tuple[nn.Module, int, list[nn.Module]]] = [(conv_in, -1, [])]
    for i, block in enumerate(downs):
        stages = _stages(block)
        if not stages:
            return []
        members = [m for stage in stages for m in stage]
        for stage in stages:
            after = members[members.index(stage[-1]) + 1 :]
            sources.append((stage[0], i, after))
    sinks = [(j, k, stage) for j, block in enumerate(ups) for k, stage in enumerate(_stages(block, up=True))]
    if len(sinks) != len(sources):
        return []
    mid = [model.mid_block] if isinstance(getattr(model, "mid_block", None), nn.Module) else []
    skips = []
    for (source, i, after), (j, k, stage) in zip(sources, reversed(sinks), strict=True):
        before = [m for s in _stages(ups[j], up=True)[:k] for m in s]
        inside = (*after, *list(downs)[i + 1 :], *mid, *list(ups)[:j], *before)
        skips.append(Skip(stage[0], int(source.out_channels), inside))  # type: ignore[arg-type]
    return skips


def _stages(block: nn.Module, up: bool = False) -> list[list[nn.Module]]:
    """A UNet block as stages (resnet with its attention; the downsampler), each source or sink of a skip."""
    resnets = getattr(block, "resnets", None)
    if not isinstance(resnets, nn.ModuleList):
        return []
    attentions = getattr(block, "attentions", None) or []
    stages = [[r, *([attentions[n]] if n < len(attentions) else [])] for n, r in enumerate(resnets)]
    if not up and isinstance(getattr(block, "downsamplers", None), nn.ModuleList):
        stages.append(list(block.downsamplers))  # type: ignore[arg-type]
    return stages


def _is_block_list(module: nn.Module) -> bool:
    items = list(module.children())
    return (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and bool(items)
        and not any(type(m).__module__.startswith("torch.nn") for m in items)
    )
