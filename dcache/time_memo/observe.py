"""One observed call: which modules of a denoiser depend on its timestep and on small conditions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import nn

from dcache.intercept.pytree import samples
from dcache.time_memo.arguments import tensors_in, tensors_of
from dcache.time_memo.state import stateful
from dcache.time_memo.taint import Taint
from dcache.time_memo.wiring import Node, ObservedCall, wire
from dcache.util.bytes import bytes_of_elements

# Text is (B, tokens, width); pooled text, guidance, classes and sizes have two axes at most.
_TEXT_AXES = 3
# In place of True: what depends on the text, but not on the timestep as well.
ALONE = "alone"
# Stands for the state of adapters and hooks, on which no timed module may depend.
_STATE = "(state)"


@dataclass(frozen=True, eq=False)
class TimedModule:
    """A module whose output depends on the named arguments of the denoiser alone.

    Attributes:
        name: its path in the denoiser.
        module: the module.
        sources: names of the arguments ("timestep", "added_cond_kwargs.time_ids").
        output_bytes: bytes of its output in the observed call.
        by_time: whether the timestep is one of the sources.
    """

    name: str
    module: nn.Module
    sources: frozenset[str]
    output_bytes: int = 0
    by_time: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes of its parameters and buffers."""
        return bytes_of_elements((*self.module.parameters(), *self.module.buffers()))


def allowed_sources(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], text: bool
) -> frozenset[str]:
    """The arguments that a timed module may depend on.

    Args:
        module: the denoiser.
        args: positional arguments of its call.
        kwargs: keyword arguments of its call.
        text: also the text's embeddings.

    Returns:
        Names as in `tensors_of`: all but the samples and, unless `text`, tensors of three axes or more and
        those in lists (a text for each row).
    """
    latents = {id(tensor) for tensor in samples(args, kwargs)}
    return frozenset(
        name
        for name, tensor in tensors_of(module, args, kwargs).items()
        if id(tensor) not in latents
        if text or (tensor.ndim < _TEXT_AXES and not name.rpartition(".")[2].isdigit())
    )


@dataclass(frozen=True)
class Observation:
    """What one observed call showed.

    Attributes:
        output: the call's output.
        timed: the timed modules, in the order of their calls.
        before: all modules whose outputs timed modules may depend on, in those of the timed ones too.
        nodes: how calls of timed modules, and of modules without weights before them, are made anew.
    """

    output: Any
    timed: list[TimedModule]
    before: list[str]
    nodes: dict[str, Node]


def observe(
    module: nn.Module,
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    text: bool | str = False,
    time_name: str = "timestep",
) -> Observation:
    """Make one call and see which modules are timed: the topmost that hold parameters and were called once.

    Args:
        module: the denoiser.
        call: makes the call.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        text: whether modules that depend on the text's embeddings are timed too; "alone": not those that
            depend on the timestep as well.
        time_name: the timestep argument's name.
    """
    taint, named = Taint(), tensors_of(module, args, kwargs)
    allowed = allowed_sources(module, args, kwargs, bool(text))
    for name, tensor in named.items():
        taint.mark(tensor, name)
    calls = _Calls(taint, allowed, stateful(module))
    hooks = [
        part.register_forward_hook(calls.hook(name), with_kwargs=True)
        for name, part in module.named_modules()
        if name
    ]
    try:
        # Compiled blocks run as they are written: no operation of theirs would be seen.
        with torch.compiler.set_stance("force_eager"), taint:
            output = call(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    once = [call for call in calls.seen.values() if call is not None]
    if text == ALONE:
        sources = calls.sources
        once = [c for c in once if len(sources[c.name]) == 1 or time_name not in sources[c.name]]
    timed = list(_timed(once, calls.sources, time_name))
    names = {part.name for part in timed}
    names |= {call.name for call in once if next(call.module.parameters(), None) is None}
    # The timestep is another one in each call.
    lasting = {name: tensor for name, tensor in named.items() if name != time_name}
    nodes = wire([call for call in once if call.name in names], lasting)
    return Observation(output, timed, list(calls.before), nodes)


class _Calls:
    """Notes the calls of modules, of those that may be timed with their tensors.

    Args:
        taint: knows what tensors depend on.
        allowed: what timed modules may depend on.
        stateful: ids of modules whose outputs depend on more than that.

    Attributes:
        before: names of modules that were called with nothing but allowed arguments, any number of times.
        seen: name -> the call; None where there were several, or it depends on something else.
        sources: name -> what that call's tensors depend on.
    """

    def __init__(self, taint: Taint, allowed: frozenset[str], stateful: set[int]) -> None:
        self.taint, self.allowed, self.stateful = taint, allowed, stateful
        self.thread = get_ident()
        self.before: dict[str, None] = {}
        self.seen: dict[str, ObservedCall | None] = {}
        self.sources: dict[str, frozenset[str]] = {}

    def hook(self, name: str) -> Callable[..., None]:
        """A forward hook for the module of this name."""

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if get_ident() != self.thread:
                return
            if id(module) in self.stateful:
                for tensor in tensors_in(output):
                    self.taint.mark(tensor, _STATE)
            # Of the arguments too: an output that is made anew (`.item()`) has no names of its own.
            inputs = list(map(self.taint.names, tensors_in((args, kwargs))))
            sources = self.taint.names_in(output).union(*inputs)
            if sources <= self.allowed:
                self.before[name] = None
            fits = name not in self.seen and sources and sources <= self.allowed
            call = ObservedCall(name, module, (args, kwargs), output, tuple(inputs)) if fits else None
            self.seen[name], self.sources[name] = call, sources

        return note


def _timed(
    calls: Sequence[ObservedCall], sources: Mapping[str, frozenset[str]], time_name: str
) -> Iterator[TimedModule]:
    """The topmost modules with weights of those that depend on allowed arguments alone.

    Args:
        calls: calls of modules that depend on allowed arguments alone.
        sources: name of a module -> what its call depends on.
        time_name: the timestep argument's name.
    """
    fits = {call.name for call in calls}
    for call in calls:
        part, name = call.module, call.name
        if next(part.parameters(), None) is not None and not any(n in fits for n in names_around(name)):
            size = bytes_of_elements(tensors_in(call.output))
            yield TimedModule(name, part, sources[name], size, time_name in sources[name])


def names_around(name: str) -> Iterator[str]:
    """The names of the modules around a module, but for the outermost ("")."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
