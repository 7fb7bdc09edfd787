"""Discovery: blocks, sublayers, skips and long skips of a model, from its modules.

Sublayers are found by structure (`dcache.sites.sublayers`) and confirmed on the first call. Properties of
block classes that cannot be read off a module are declared in `dcache.sites.blocks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from dcache.sites.blocks import ASIDE, TORCH_BLOCKS
from dcache.sites.evidence import may_hide_a_kind, named_sublayers, sublayers_of
from dcache.sites.site import LongSkip, Skip, Sublayer
from dcache.sites.structure import SUBLAYER_KINDS, Structure
from dcache.sites.sublayers import Part, is_holder, parts_of, suffixes


def discover(model: nn.Module, specs: Sequence[str] = ()) -> Structure:
    """List the regions of a model that can be cached. The model is neither run nor changed.

    Args:
        model: the model.
        specs: specifications of sites. Names of single sublayers among them decide where a block's sublayers
            may have several names before its first call.
    """
    structure = Structure(model)
    structure.skips = find_skips(model)
    if not structure.skips and not hasattr(model, "down_blocks"):
        structure.blocks = find_blocks(model)
    structure.long_skips = find_long_skips(structure.blocks)
    structure.shared = shared_parts(structure.blocks or find_holders(model))
    structure.sublayers = list(find_sublayers(model, structure.blocks, specs, structure.shared))
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
                # Beside torch's decoder its encoder reads the observation, once for all or in every call.
                decoders = [c for c in lists if isinstance(next(c.children()), nn.TransformerDecoderLayer)]
                lists = [max(decoders or lists, key=lambda c: len(list(c.children())))]
            return [block for blocks in lists for block in blocks.children()]
        level = [c for m in level for c in m.children()]
    return []


def find_sublayers(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    specs: Sequence[str] = (),
    shared: Sequence[nn.Module] | None = None,
) -> Iterable[Sublayer]:
    """The sublayers of the trunk, with their block's depth: by structure, or as rows declare them.

    Without a trunk: of all modules that have attention and an MLP, whose depths are counted in order. A
    module that several blocks share is left out: which block calls it is not known when it is called.

    Args:
        model: the model.
        blocks: the trunk, empty without one.
        specs: as for `discover`.
        shared: the modules that are left out, where they are known already.
    """
    holders = blocks or find_holders(model)
    shared = shared_parts(holders) if shared is None else shared
    names: dict[str, set[str]] = {}
    for spec in specs:
        name, _, depth_text = spec.partition(":")
        if name.partition(".")[0] in SUBLAYER_KINDS and depth_text:
            names.setdefault(depth_text, set()).add(name)
    unseen = _unseen_kinds(holders, specs)
    for depth, block in enumerate(holders):
        wanted = names.get(str(depth), set()) | (unseen if unseen and may_hide_a_kind(block) else set())
        parts = named_sublayers(block, wanted) if wanted else sublayers_of(block)
        parts = tuple(part for part in parts if not any(map(shared.__contains__, _modules_of(block, part))))
        suffix = suffixes(parts)
        for part in parts:
            yield Sublayer(
                f"{part.kind}{suffix[part]}:{depth}",
                part.kind,
                depth,
                block.get_submodule(part.path),
                tuple(block.get_submodule(feeder) for feeder in part.feeders),
                None if part.declared else block,
                part.method,
            )


def shared_parts(blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """Modules of sublayers that more than one block has."""
    owners: dict[nn.Module, set[nn.Module]] = {}
    for block in blocks:
        for part in parts_of(block):
            for module in _modules_of(block, part):
                owners.setdefault(module, set()).add(block)
    return [module for module, sharers in owners.items() if len(sharers) > 1]


def _modules_of(block: nn.Module, part: Part) -> list[nn.Module]:
    return [block.get_submodule(path) for path in (part.path, *part.feeders)]


def _unseen_kinds(holders: Sequence[nn.Module], specs: Sequence[str]) -> set[str]:
    """The kinds of attention among specifications that no block has by structure."""
    asked = {"attn", "cross_attn"}.intersection(specs)
    return asked - {part.kind for block in holders for part in sublayers_of(block)} if asked else set()


def find_holders(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that have attention and an MLP, or that a row declares, in order."""
    holders: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module not in inside and is_holder(module):
            holders.append(module)
            inside.update(module.modules())
    return holders


def find_skips(model: nn.Module) -> list[Skip]:
    """The skips of a UNet of diffusers' form or of lists of lists, outermost first; empty for others."""
    if isinstance(getattr(model, "down_modules", None), nn.ModuleList):
        return _skips_of_lists(model)
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


def _skips_of_lists(model: nn.Module) -> list[Skip]:
    """The skips of a UNet whose levels are lists of modules (the 1-D UNets of diffusion policies).

    A level of `down_modules` ends with its downsampler, in front of which its skip begins; one of
    `up_modules` begins where the skip ends. The outermost level's skip may have no end.
    """
    downs, mids, ups = (_levels(model, f"{name}_modules") for name in ("down", "mid", "up"))
    if not all(len(level) > 1 for level in downs) or not all(ups):
        return []
    skips = []
    for i, level in enumerate(downs):
        j = len(downs) - 1 - i
        if j < len(ups):
            inside = (level[-1], *(m for part in (*downs[i + 1 :], *mids, *ups[:j]) for m in part))
            skips.append(Skip(ups[j][0], _out_channels(level[-2]), inside))
    return skips if all(skip.channels for skip in skips) else []


def _levels(model: nn.Module, name: str) -> list[list[nn.Module]]:
    """The modules of each level of a list of lists; a level that is a single module is a list of it."""
    items = getattr(model, name, None)
    return [
        list(item) if isinstance(item, nn.ModuleList) else [item]
        for item in (items if isinstance(items, nn.ModuleList) else ())
    ]


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
        and all(isinstance(m, TORCH_BLOCKS) or not type(m).__module__.startswith("torch.nn") for m in items)
    )
