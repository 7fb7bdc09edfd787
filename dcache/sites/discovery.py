"""Discovery: blocks, sublayers, skips and long skips of a model, from its modules.

Properties of block classes that cannot be read off a module are declared in `dcache.sites.blocks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from torch import nn

from dcache.sites.blocks import ASIDE, FUSED, SUBLAYERS
from dcache.sites.site import LongSkip, Skip, Sublayer
from dcache.sites.structure import Structure

_STEM = re.compile(r"(?:^|_)(?:attn|attention|ff|ffn|mlp)\d*(?=_|$)")


def discover(model: nn.Module) -> Structure:
    """List the regions of a model that can be cached. The model is neither run nor changed."""
    structure = Structure(model)
    structure.skips = find_skips(model)
    if not hasattr(model, "down_blocks"):
        structure.blocks = find_blocks(model)
    structure.long_skips = find_long_skips(structure.blocks)
    structure.sublayers = list(find_sublayers(model, structure.blocks))
    return structure


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """The trunk's blocks, in order of registration; empty if the model has no list of blocks.

    They are those of all block lists that are attributes of the model itself; else of the longest list at the
    shallowest level that has one.
    """
    level = [model]
    while level:
        lists = [
            c for m in level for name, c in m.named_children() if name not in ASIDE and _is_block_list(c)
        ]
        if lists:
            if level[0] is not model:
                lists = [max(lists, key=lambda c: len(list(c.children())))]
            return [block for blocks in lists for block in blocks.children()]
        level = [c for m in level for c in m.children()]
    return []


def find_sublayers(model: nn.Module, blocks: Sequence[nn.Module]) -> Iterable[Sublayer]:
    """The declared sublayers of the trunk, with their block's depth.

    Without a trunk: of all declared blocks of the model, whose depths are counted in order.
    """
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
            for place, attribute in enumerate(attributes):
                sub = getattr(module, attribute, None)
                if isinstance(sub, nn.Module):
                    yield Sublayer(f"{kind}{_suffix(attribute, place)}:{depth}", kind, depth, sub)
        if name in FUSED:
            fused = FUSED[name]
            feeders = tuple(getattr(module, attribute) for attribute in fused.feeders)
            yield Sublayer(f"fused:{depth}", "fused", depth, getattr(module, fused.exit), feeders)


def _suffix(attribute: str, place: int) -> str:
    """The suffix of a block's further sublayers of one kind: `ff_context` is named `mlp.context`."""
    return "." + (_STEM.sub("", attribute).strip("_") or str(place + 1)) if place else ""


def find_skips(model: nn.Module) -> list[Skip]:
    """The skips of a UNet of diffusers' form, outermost first; empty for any other model."""
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
    mid = [m for m in (getattr(model, "mid_block", None),) if isinstance(m, nn.Module)]
    skips = []
    for (source, i, after), (j, k, stage) in zip(sources, reversed(sinks), strict=True):
        before = [m for s in _stages(ups[j], up=True)[:k] for m in s]
        inside = (*after, *list(downs)[i + 1 :], *mid, *list(ups)[:j], *before)
        skips.append(Skip(stage[0], _out_channels(source), inside))
    return skips if all(skip.channels for skip in skips) else []


def _out_channels(module: nn.Module) -> int:
    """Channels of a module's output: `out_channels` of it or of its first part that has it; 0 without."""
    channels = (getattr(part, "out_channels", None) for part in module.modules())
    return next((int(count) for count in channels if isinstance(count, int)), 0)


def _stages(block: nn.Module, up: bool = False) -> list[list[nn.Module]]:
    """The stages of a UNet block, each the source or sink of a skip.

    A stage is a resnet with its share of the block's other lists (attentions, temporal convolutions, motion
    modules), or the downsampler.
    """
    resnets = getattr(block, "resnets", None)
    if not isinstance(resnets, nn.ModuleList):
        return []
    samplers = [getattr(block, name, None) for name in ("downsamplers", "upsamplers")]
    beside = [
        c for c in block.children() if isinstance(c, nn.ModuleList) and c is not resnets and c not in samplers
    ]
    stages = []
    for n, resnet in enumerate(resnets):
        per = [(c, len(c) // len(resnets)) for c in beside if len(c) % len(resnets) == 0]
        stages.append([resnet, *(m for c, k in per for m in c[n * k : (n + 1) * k])])
    if not up and isinstance(getattr(block, "downsamplers", None), nn.ModuleList):
        stages.append(list(block.downsamplers))  # type: ignore[arg-type]
    return stages


def find_long_skips(blocks: Sequence[nn.Module]) -> list[LongSkip]:
    """Long skips inside a list of blocks, outermost first.

    The last `n` blocks have modules named after a skip; the first `n` blocks feed them, paired like a stack.
    If the blocks with such modules are not the last ones, no skip is reported: the self-check then rejects
    sites that a skip crosses.
    """
    sinks = [i for i, block in enumerate(blocks) if any("skip" in name for name, _ in block.named_children())]
    count = len(sinks)
    if sinks != list(range(len(blocks) - count, len(blocks))) or 2 * count >= len(blocks):
        return []
    return [LongSkip(source, len(blocks) - 1 - source) for source in range(count)]


def _is_block_list(module: nn.Module) -> bool:
    items = list(module.children())
    return (
        isinstance(module, nn.ModuleList | nn.Sequential)
        and bool(items)
        and not any(type(m).__module__.startswith("torch.nn") for m in items)
    )
