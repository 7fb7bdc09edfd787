"""`Binding`: the sites of one model, with their regions and the intercepts on its modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcache.engine.group import GroupRegion
from dcache.engine.lowering.block_watch import BlockWatch
from dcache.engine.lowering.blocks import BlockCall
from dcache.engine.lowering.guidance import GuidanceRegion
from dcache.engine.lowering.module import MethodCall
from dcache.engine.lowering.whole_model import WholeRegion
from dcache.engine.region import Region
from dcache.errors import DcacheError
from dcache.intercept.module_call import ModuleIntercept, compiled_inside
from dcache.sites.discovery import find_blocks, find_sublayers
from dcache.sites.site import Site
from dcache.sites.structure import Structure
from dcache.util.modules import modules_of

if TYPE_CHECKING:
    # Loaded with the first method that has its site.
    from dcache.engine.lowering.frames import FrameRegion
    from dcache.intercept.split_inputs import SplitInputs

    BoundSite = Region | GroupRegion | GuidanceRegion | FrameRegion


@dataclass(eq=False)
class Binding:
    """The sites of one model with their regions and intercepts.

    Attributes:
        model: the denoiser.
        structure: its blocks, sublayers and skips.
        sites: the selected sites.
        regions: one region for each site, in the same order.
        intercepts: in the order of their installation.
        whole: the region of the whole model, if that is a site.
        guidance: the region of the unconditional rows, if that is a site.
        frames: the region of the frames that are due, if these are sites.
        names: (parent, name, child) of every intercepted module, when it was bound.
        compile_options: arguments of `torch.compile` for the intercepted modules, or None.
        watches: in front of blocks whose sublayers a first call has to confirm.
        splits: in front of the others, where context parallelism splits a bound module's inputs.
    """

    model: nn.Module
    structure: Structure
    sites: list[Site]
    regions: list[BoundSite] = field(default_factory=list)
    intercepts: list[ModuleIntercept] = field(default_factory=list)
    whole: WholeRegion | None = None
    guidance: GuidanceRegion | None = None
    frames: FrameRegion | None = None
    names: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list)
    compile_options: Any = None
    watches: list[BlockWatch] = field(default_factory=list)
    splits: list[SplitInputs] = field(default_factory=list)

    def install(self) -> None:
        """Install all intercepts, and compile the modules inside them if options are given."""
        for intercept in self.intercepts:
            intercept.install()
        if self.compile_options is not None:
            self._compile()
        for watch in self.watches:
            watch.install()
        bound = {i.module for i in self.intercepts}
        self._install_splits()
        self.names = [
            (parent, name, child)
            for parent in modules_of(self.model)
            for name, child in parent.named_children()
            if child in bound
        ]

    def remove(self) -> None:
        """Remove all intercepts."""
        for split in self.splits:
            split.remove()
        self.splits = []
        self._remove_watches()
        for intercept in reversed(self.intercepts):
            intercept.remove()

    def reinstall(self) -> None:
        """Install again the intercepts whose slot was overwritten."""
        for intercept in self.intercepts:
            if intercept.displaced:
                intercept.install()
        for split in self.splits:
            # In front of all others, whatever was installed since.
            split.remove()
            split.install()

    def clear(self) -> None:
        """Drop all references to the model's modules, after caching was disabled."""
        for region in self.storing():
            # Leader and follower refer to each other. Cutting one link lets them be freed.
            region.leader = None
        self.intercepts, self.regions, self.names = [], [], []
        self.whole = self.guidance = self.frames = None

    def storing(self) -> Iterator[Region]:
        """Every region that stores anchors, including those of repeated calls and of parts."""
        for region in self.regions:
            yield from region.parts()

    def summable(self) -> list[Region]:
        """The regions whose predictions can be computed in one launch (`engine.batched_sums`)."""
        return [region for region in self.regions if isinstance(region, Region)]

    def moved(self) -> bool:
        """True if a bound module was replaced in the model, for example by a LoRA layer."""
        for parent, name, child in self.names:  # noqa: SIM110 - runs in every call, so no generator
            if parent._modules.get(name) is not child:
                return True
        return False

    def stale(self) -> bool:
        """True if a bound module was replaced, or the model's blocks or what splits their inputs changed."""
        if self._split() != [split.module for split in self.splits]:
            return True
        return self.moved() or (
            bool(self.structure.blocks) and find_blocks(self.model) != self.structure.blocks
        )

    def refuse_enclosed(self) -> None:
        """Check that no bound module lies inside a compiled one, where its intercept would not be called.

        Raises:
            DcacheError: one does.
        """
        bound = {i.module for i in self.intercepts}
        # Their methods are intercepted.
        parts = {i.module for i in self.intercepts if isinstance(i, MethodCall)}
        for module in modules_of(self.model):
            # `torch.compile(block)` makes another module around the block.
            around = hasattr(module, "_orig_mod")
            if compiled_inside(module) is None and not around:
                continue
            inside = (m for m in module.modules() if m is not module or m in parts)
            enclosed = next((m for m in inside if m in bound), None)
            if enclosed is not None:
                block = type(getattr(module, "_orig_mod", module)).__name__
                by = " by torch.compile(block)" if around else ""
                raise DcacheError(
                    f"{block} is compiled{by}, and the sites {[s.name for s in self.sites]} "
                    f"lie inside it ({type(enclosed).__name__}): leave the blocks as they are and call "
                    "dcache.enable(pipe, ..., compile=True), which compiles the sublayers instead; or "
                    "choose sites of whole blocks"
                )

    def settle(self) -> str | None:
        """Set up the skipping of blocks from the traces of a first computed call.

        Returns:
            None, or the reason why the blocks cannot be skipped.
        """
        for intercept in self.intercepts:
            if not isinstance(intercept, BlockCall):
                continue
            region = intercept.region
            tracer = region.engine.tracer
            if intercept.module not in tracer.seen:
                return f"block {type(intercept.module).__name__} of {region.site.name} was not called"
            expected = [i.module for i in self.intercepts if isinstance(i, BlockCall) and i.region is region]
            # Skip-layer guidance leaves some blocks out. That is allowed for all but the first.
            called = [m for m in expected if m in region.order]
            if region.order and not _once_each(region.order, called, expected):
                return f"the blocks of {region.site.name} are not called once each, in their order"
            if not intercept.last:
                intercept.passing = tracer.pass_through(intercept.module)
                if intercept.passing is None:
                    return (
                        f"an output of {type(intercept.module).__name__} continues none of its inputs, so "
                        f"it cannot be passed through in {region.site.name}"
                    )
            if region.codec.is_delta and region.sources is not None and not any(region.sources):
                return f"codec 'delta' at {region.site.name} needs an output of an input's shape"
        return None

    def confirm(self) -> tuple[bool, list[str]]:
        """After a first computed call: keep what it showed of sublayers that were found by structure.

        Returns:
            Whether the binding differs from it, and a sentence for each bound sublayer that is none. One of
            another kind is cached under the right one: nothing is lost.
        """
        bound = {intercept.module for intercept in self.intercepts}
        watched, texts = bool(self.watches), []
        for watch in self.watches:
            for verdict in watch.confirm():
                part = verdict.part
                if not verdict.kind and watch.module.get_submodule(part.path) in bound:
                    where = f"{type(watch.module).__name__}.{part.path}"
                    texts.append(
                        f"{where} looks like {part.kind}, and {verdict.why}: it is not cached by itself"
                    )
        self._remove_watches()
        return watched and self._outdated(), texts

    def _outdated(self) -> bool:
        """Whether the sublayers have other names than those by which they were bound."""
        now = [(s.name, s.module) for s in find_sublayers(self.model, self.structure.blocks)]
        return now != [(s.name, s.module) for s in self.structure.sublayers]

    def _install_splits(self) -> None:
        modules = self._split()
        if modules:
            # Few models are split; importing dcache stays light.
            from dcache.intercept.split_inputs import SplitInputs

            self.splits = [SplitInputs(module) for module in modules]
        for split in self.splits:
            split.install()

    def _split(self) -> list[nn.Module]:
        """Bound modules, and blocks of bound sublayers, whose inputs are split among processes."""
        if getattr(self.model, "_parallel_config", None) is None:
            return []
        from dcache.intercept.split_inputs import split_modules

        return split_modules([*(i.module for i in self.intercepts), *self.structure.blocks])

    def _remove_watches(self) -> None:
        for watch in reversed(self.watches):
            watch.remove()
        self.watches = []

    def check_corrections(self) -> None:
        """Check, after a first computed call, that corrections and outputs have equal numbers of channels.

        Raises:
            DcacheError: they differ at a site.
        """
        for region in self.storing():
            region.check_corrections()

    def observe(self) -> None:
        """Prepare for a call in which the order of the blocks is recorded."""
        for intercept in self.intercepts:
            if isinstance(intercept, BlockCall):
                intercept.region.order = []

    def _compile(self) -> None:
        bound = {i.module for i in self.intercepts}
        for block in self.structure.blocks:
            if not any(m in bound for m in block.modules()):
                plain = ModuleIntercept(block)
                plain.install()
                self.intercepts.append(plain)
        for intercept in self.intercepts:
            # A module that contains another bound module is not compiled, since the inner intercept must be
            # called. In a chain of intercepts the innermost calls the compiled module.
            if not isinstance(intercept.inner, ModuleIntercept) and not any(
                m in bound for m in intercept.module.modules() if m is not intercept.module
            ):
                intercept.inner = _compiled(intercept.module, self.compile_options)


def _once_each(
    order: Sequence[nn.Module], called: Sequence[nn.Module], expected: Sequence[nn.Module]
) -> bool:
    """Whether a run was entered at its first block, and each block called once, in their order.

    Two lists of blocks may take turns (Latte's spatial and temporal ones): blocks between the first and the
    last may be called in any order, for all of them pass their inputs through.
    """
    if order[0] is not expected[0] or len(order) != len(called):
        return False
    return order[-1] is expected[-1] or list(order) == list(called)


def _compiled(module: nn.Module, options: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        return torch.compile(module._call_impl, **options)
    except Exception as error:
        raise DcacheError(
            f"torch.compile refuses compile={dict(options)!r}: {str(error).strip().splitlines()[0]}"
        ) from error
