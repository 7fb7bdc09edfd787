"""`bind`: makes a region and intercepts on the model's modules for each site of a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dcache.cache.codec import Codec
from dcache.engine.binding import Binding
from dcache.engine.group import GroupRegion
from dcache.engine.lowering.block_watch import BlockWatch, watches
from dcache.engine.lowering.blocks import BlockCall, RunRegion
from dcache.engine.lowering.bracket import BracketRegion, SkipConcatCall
from dcache.engine.lowering.guidance import GuidanceRegion
from dcache.engine.lowering.module import MethodCall, ModuleCall, ModuleRegion, PlaceholderCall
from dcache.engine.lowering.probe import AttentionInputProbe, BlockInputProbe, FrontProbe, FrontProbeCall
from dcache.engine.lowering.whole_model import WholeRegion
from dcache.engine.protocols import Engine
from dcache.errors import DcacheError
from dcache.probes import Probe, attacher
from dcache.schedule.plan import UNCOND_FROM
from dcache.sites.discovery import discover
from dcache.sites.site import Site
from dcache.sites.structure import SUBLAYER_KINDS, Structure


def bind(engine: Engine, specs: Sequence[str], compile_options: Any = None, replay: bool = False) -> Binding:
    """Find the sites in a denoiser and build their regions and intercepts, without installing them.

    Args:
        engine: the session.
        specs: site specifications, as in `dcache.sites.structure`.
        compile_options: arguments of `torch.compile` for the intercepted modules, or None.
        replay: lower every module of a run or bracket by itself: the slow reference implementation.

    Raises:
        DcacheError: a site does not exist or overlaps another, or its codec or the probe does not fit.
    """
    model, method = engine.module, engine.method
    structure = discover(model, specs)
    _say_shared(engine, structure, specs)
    specs = _existing(engine, structure, specs)
    if method.probe:
        specs = _beside_probe(structure, specs, method.probe)
    sites = structure.select(specs)
    binding = Binding(model, structure, sites, compile_options=compile_options)
    if sites == [Site("model", "model")] and tuple(specs) == ("auto",):
        engine.warn(
            f"{type(model).__name__} has no block list that dcache recognises: the output of the whole model "
            "is cached (sites='model')"
        )
    for site in sites:
        _lower(binding, engine, site, method.codec_for(site), replay)
    if method.corrections is not None:
        _refuse_unbound(binding, method.corrections.sites)
    if method.probe:
        attach = _ATTACH.get(method.probe.where) or attacher(method.probe.where)
        if attach is not None:
            attach(binding, engine, method.probe)
    binding.refuse_enclosed()
    if compile_options is None and binding.frames is None:
        binding.watches = _watches(binding, engine)
    if binding.compile_options is not None and not binding.intercepts and not structure.blocks:
        engine.warn(
            f"compile=True found nothing to compile in {type(model).__name__}: it has no blocks that "
            "dcache recognises"
        )
    return binding


def _say_shared(engine: Engine, structure: Structure, specs: Sequence[str]) -> None:
    """Name the modules that look like the sublayers asked for, and that several blocks share."""
    kinds = {spec.partition(":")[0].partition(".")[0].strip("?") for s in specs for spec in str(s).split("|")}
    if structure.shared and kinds & {"sublayers", *SUBLAYER_KINDS}:
        names = ", ".join(dict.fromkeys(type(module).__name__ for module in structure.shared))
        engine.warn(
            f"blocks of {type(structure.model).__name__} share modules ({names}), and which block calls one "
            "is not known: these are not cached by themselves. Use sites of whole blocks to skip them."
        )


def _existing(engine: Engine, structure: Structure, specs: Sequence[str]) -> Sequence[str]:
    """The specifications with the first alternative that exists; another one than the first is said."""
    for kind in (str(spec).removesuffix("?") for spec in specs if str(spec).endswith("?")):
        # Most models have no cross-attention, which methods name by default; an MLP was asked for.
        if kind == "mlp" and not any(sublayer.kind == kind for sublayer in structure.sublayers):
            engine.warn(
                f"{engine.method.name} caches {kind}, and none is found in the blocks of "
                f"{type(engine.module).__name__}, or left by its first call: nothing of it is cached"
            )
            if kind in engine.method.parameters:
                engine.method = engine.method.with_parameters(**{kind: None})
    existing = structure.existing(specs)
    for spec, chosen in zip(specs, existing, strict=True):
        asked = spec.partition("|")[0]
        if asked != chosen:
            engine.warn(
                f"{engine.method.name} caches {asked}, and none are found in {type(engine.module).__name__}: "
                f"sites={chosen!r} is cached instead"
            )
            engine.method = engine.method.with_parameters(sites=chosen)
    return existing


def _watches(binding: Binding, engine: Engine) -> list[BlockWatch]:
    """Watches for the blocks of the bound sublayers, and of the attention that is the rule's probe."""
    bound = {intercept.module for intercept in binding.intercepts}
    return watches(engine, [s.block for s in binding.structure.sublayers if s.module in bound])


def _lower(binding: Binding, engine: Engine, site: Site, codec: Codec, replay: bool) -> None:
    """Add the region and the intercepts of one site to the binding."""
    if site.kind == "model":
        binding.whole = WholeRegion(engine, site, codec)
        binding.regions.append(binding.whole)
    elif site.kind == "guidance":
        binding.guidance = _guidance(binding, engine, site)
        binding.regions.append(binding.guidance)
    elif site.kind == "frames":
        _lower_frames(binding, engine)
    elif site.is_run:
        _lower_run(binding, engine, site, codec, replay)
    elif site.kind == "bracket":
        _lower_bracket(binding, engine, site, codec, replay)
    else:
        _lower_sublayer(binding, engine, site, codec)


def _lower_bracket(binding: Binding, engine: Engine, site: Site, codec: Codec, replay: bool) -> None:
    if codec.is_delta:
        raise DcacheError(
            f"codec 'delta' does not fit {site.name}: a UNet's bracket begins and ends with different "
            "channel counts; use codec='value'"
        )
    skip = binding.structure.skips[site.first]
    if not replay:
        region = BracketRegion(engine, site, codec)
        binding.regions.append(region)
        binding.intercepts += [PlaceholderCall(module, region) for module in skip.inside]
        binding.intercepts.append(SkipConcatCall(skip.sink, region, skip.channels))
        return
    if engine.method.corrections is not None and engine.method.corrections.of(site.name) is not None:
        raise DcacheError(f"corrections of {site.name} need the usual lowering: leave lowering='replay' out")
    group = GroupRegion(engine, site)
    binding.regions.append(group)
    for i, module in enumerate(skip.inside):
        follower = ModuleRegion(engine, Site(f"part:{i}", "part", i, i), codec, leader=group)
        group.followers.append(follower)
        binding.intercepts.append(ModuleCall(module, follower))


def _lower_sublayer(binding: Binding, engine: Engine, site: Site, codec: Codec) -> None:
    if codec.is_delta:
        raise DcacheError(
            f"codec 'delta' does not fit {site.name}: a sublayer's output does not continue its input; use "
            "codec='value'"
        )
    sublayer = next(s for s in binding.structure.sublayers if s.name == site.name)
    region = ModuleRegion(engine, site, codec)
    binding.regions.append(region)
    binding.intercepts += [PlaceholderCall(module, region) for module in sublayer.feeders]
    if not sublayer.method:
        binding.intercepts.append(ModuleCall(sublayer.module, region))
    elif binding.compile_options is None:
        binding.intercepts.append(MethodCall(sublayer.module, sublayer.method, region))
    else:
        raise DcacheError(
            f"{site.name} is the method {sublayer.method} of {type(sublayer.module).__name__}, which cannot "
            "be compiled by itself: leave compile= out, or choose sites of whole blocks"
        )


def _guidance(binding: Binding, engine: Engine, site: Site) -> GuidanceRegion:
    if engine.method.uncond_from not in UNCOND_FROM:
        raise DcacheError(
            "site 'guidance' needs a method that predicts the unconditional branch (uncond_from="
            f"{', '.join(map(repr, UNCOND_FROM))}): use 'tgate' or 'fastercache'"
        )
    whole = [s.name for s in binding.sites if s.kind in {"model", "bracket", "fused"}]
    if whole:
        raise DcacheError(
            f"site 'guidance' runs half of the batch, which {whole} do not support: choose sublayers or runs"
        )
    return GuidanceRegion(engine, site)


def _lower_frames(binding: Binding, engine: Engine) -> None:
    """Add the region of all frames, whose blocks are sites; only the first site of the kind adds one."""
    from dcache.engine.lowering.frame_rows import parts_of
    from dcache.engine.lowering.frames import FrameRegion

    if binding.frames is not None:
        return
    others = [site.name for site in binding.sites if site.kind != "frames"]
    if others or binding.compile_options is not None:
        what = f"the sites {', '.join(others)}" if others else "compile="
        raise DcacheError(f"site 'frames' calls the denoiser on other frames in each call: leave {what} out")
    if engine.method.shares and engine.memory is not None:
        raise DcacheError("a prefix that is shared outlives its run: leave max_cache_bytes= or share= out")
    binding.frames = FrameRegion(engine, Site("frames", "frames"), parts_of(binding.structure))
    binding.regions.append(binding.frames)
    binding.intercepts += binding.frames.rows.intercepts()


def _lower_run(binding: Binding, engine: Engine, site: Site, codec: Codec, replay: bool) -> None:
    blocks = binding.structure.blocks[site.first : site.last + 1]
    if replay:
        group = GroupRegion(engine, site)
        binding.regions.append(group)
        for i, block in enumerate(blocks, site.first):
            follower = RunRegion(engine, Site(f"block:{i}", "block", i, i), codec, leader=group)
            group.followers.append(follower)
            binding.intercepts.append(BlockCall(block, follower, first=True, last=True))
        if engine.method.corrections is not None:
            # The run's output is its last block's.
            group.followers[-1].corrector = engine.method.corrections.of(site.name)
        return
    region = RunRegion(engine, site, codec)
    binding.regions.append(region)
    for i, block in enumerate(blocks):
        binding.intercepts.append(BlockCall(block, region, first=i == 0, last=i == len(blocks) - 1))


def _refuse_unbound(binding: Binding, corrected: Sequence[str]) -> None:
    bound = [site.name for site in binding.sites]
    unbound = [site for site in corrected if site not in bound]
    if unbound:
        raise DcacheError(
            f"there are corrections for {', '.join(unbound)}, and the sites here are {', '.join(bound)}: fit "
            "corrections with the schedule in which they are used"
        )


def _beside_probe(structure: Structure, specs: Sequence[str], probe: Probe) -> Sequence[str]:
    """The site specifications of a dynamic method: by default all blocks but those of the probe."""
    if probe.where != "front":
        return specs
    depth = len(structure.blocks)
    if depth <= probe.blocks:
        raise DcacheError(
            f"the dynamic rule's probe is the first {probe.blocks} block(s), and the others are cached; "
            f"{type(structure.model).__name__} has {depth} block(s). Choose a method with sites='model'."
        )
    if list(specs) == ["auto"]:
        return [f"run:{probe.blocks}-{depth - 1}"]
    return specs


def _attach_front(binding: Binding, engine: Engine, probe: Probe) -> None:
    blocks = binding.structure.blocks
    taken = [site.name for site in binding.sites if site.is_run and site.first < probe.blocks]
    if taken:
        raise DcacheError(
            f"the dynamic rule's probe is the first {probe.blocks} block(s), which are always computed, and "
            f"{', '.join(taken)} would predict them: choose sites that begin at block {probe.blocks}, such "
            f"as 'run:{probe.blocks}-{len(blocks) - 1}'"
        )
    front = FrontProbe(engine)
    for i, block in enumerate(blocks[: probe.blocks]):
        binding.intercepts.append(FrontProbeCall(block, front, i == 0, i == probe.blocks - 1))


def _attach_modulated(binding: Binding, engine: Engine, _: Probe) -> None:
    structure = binding.structure
    if not any(site.is_run and site.first == 0 for site in binding.sites):
        raise DcacheError(
            "the dynamic rule decides before the first block runs, and none of the sites "
            f"{[s.name for s in binding.sites]} begins with it: choose 'trunk' or 'run:0-N'"
        )
    # Not the first that is registered: that may be the text's.
    attention = next((s for s in structure.sublayers if s.name == "attn:0"), None)
    if attention is not None and not attention.method:
        binding.intercepts.append(AttentionInputProbe(attention.module, engine))
        return
    block = structure.blocks[0]
    engine.warn(
        "the dynamic rule's probe is the input of the first block's attention, and none is found in "
        f"{type(block).__name__}: the block's own input is the probe instead"
    )
    binding.intercepts.append(BlockInputProbe(block, engine))


def _attach_input(_binding: Binding, _engine: Engine, _probe: Probe) -> None:
    """No intercept is needed: the gate passes the denoiser's input to the indicator."""


_ATTACH = {
    "front": _attach_front,
    "modulated": _attach_modulated,
    "input": _attach_input,
    "frames": _attach_input,
}
