"""One observed call: which modules of a denoiser depend on its timestep and on small conditions alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from dcache.intercept.pytree import argument_names, samples
from dcache.time_memo.taint import Taint

# Text is (B, tokens, width); pooled text, guidance, classes and sizes have two axes at most.
_TEXT_AXES = 3


@dataclass(frozen=True, eq=False)
class TimedModule:
    """A module whose output depends on the named arguments of the denoiser alone.

    Attributes:
        name: its path in the denoiser.
        module: the module.
        sources: names of the arguments ("timestep", "added_cond_kwargs.time_ids").
    """

    name: str
    module: nn.Module
    sources: frozenset[str]

    @property
    def nbytes(self) -> int:
        """Bytes of its parameters and buffers."""
        return sum(t.numel() * t.element_size() for t in (*self.module.parameters(), *self.module.buffers()))


def tensors_of(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Name -> tensor of all tensors in a call's arguments, those in containers under dotted names."""
    named = dict(zip(argument_names(type(module).forward)[1:], args, strict=False))
    return dict(_walk("", {**named, **kwargs}))


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
        Names as in `tensors_of`: all but the samples and, unless `text`, tensors of three axes or more.
    """
    latents = {id(tensor) for tensor in samples(args, kwargs)}
    return frozenset(
        name
        for name, tensor in tensors_of(module, args, kwargs).items()
        if id(tensor) not in latents and (text or tensor.ndim < _TEXT_AXES)
    )


def observe(
    module: nn.Module,
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    text: bool = False,
) -> tuple[Any, list[TimedModule]]:
    """Make one call and see which modules are timed: the topmost that hold parameters and were called once.

    Args:
        module: the denoiser.
        call: makes the call.
        args: positional arguments of the call.
        kwargs: keyword arguments of the call.
        text: whether modules that depend on the text's embeddings are timed too.

    Returns:
        The call's output, and the timed modules in the order of their calls.
    """
    taint, seen = Taint(), dict[str, list[frozenset[str]]]()
    for name, tensor in tensors_of(module, args, kwargs).items():
        taint.mark(tensor, name)

    def noted(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, given: Any, named: Any, output: Any) -> None:
            # Of the arguments too: an output that is made anew (`.item()`) has no names of its own.
            seen.setdefault(name, []).append(taint.names_in((given, named, output)))

        return note

    hooks = [
        part.register_forward_hook(noted(name), with_kwargs=True)
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
    return output, list(_timed(module, seen, allowed_sources(module, args, kwargs, text)))


def _timed(
    module: nn.Module, seen: Mapping[str, Sequence[frozenset[str]]], allowed: frozenset[str]
) -> Iterator[TimedModule]:
    """The topmost modules of which all is known."""
    parts = dict(module.named_modules())
    fits = {
        name: calls[0] for name, calls in seen.items() if len(calls) == 1 and calls[0] and calls[0] <= allowed
    }
    for name, sources in fits.items():
        part = parts[name]
        if _is_adapted(part) or next(part.parameters(), None) is None or _has_ancestor(name, fits, parts):
            continue
        yield TimedModule(name, part, sources)


def _has_ancestor(name: str, fits: Collection[str], parts: Mapping[str, nn.Module]) -> bool:
    """Whether a module around this one is timed itself."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in fits and not _is_adapted(parts[name]):
            return True
    return False


def _is_adapted(module: nn.Module) -> bool:
    """Whether a module has adapters (LoRA), whose scales and switches are no parameters."""
    return any(hasattr(part, "base_layer") for part in module.modules())


def _walk(prefix: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _walk(f"{prefix}.{i}", item)
    elif not isinstance(value, str | bytes):
        for i, leaf in enumerate(x for x in tree_leaves(value) if isinstance(x, torch.Tensor)):
            yield f"{prefix}.{i}", leaf
