"""Inputs that diffusers' context parallelism splits inside a module's call are split in front of it.

A model's plan may split the tokens at its first block (Wan), by a hook inside that block's call. An intercept
of the call is outside the hook: it would see the block's whole inputs and the last block's split outputs, so
that no output continues an input. `SplitInputs` stands in front of all intercepts and runs the hook's part
first. Inside the call the hook then finds nothing to split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from dcache.intercept.module_call import ModuleIntercept

# How diffusers names its hooks that split inputs, followed by the module's place in the plan.
_PREFIX = "cp_input---"


class SplitHook(Protocol):
    """Interface: diffusers' `ContextParallelSplitHook`.

    Attributes:
        metadata: name of an argument, or place of an output -> how it is split.
    """

    metadata: Mapping[Any, Any]

    def pre_forward(
        self, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with this process's part of those that are split."""
        ...


class SplitInputs(ModuleIntercept):
    """Splits the inputs of one module, in front of its intercepts.

    Args:
        module: a module with hooks that split its inputs.
    """

    name = "split"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The call with this process's part of the inputs."""
        hooks = list(split_hooks(self.module))
        for hook in hooks:
            args, kwargs = hook.pre_forward(self.module, *args, **kwargs)
        with _without_inputs(hooks):
            return self.inner(*args, **kwargs)


def split_hooks(module: nn.Module) -> Iterator[SplitHook]:
    """The hooks that split a module's inputs, in the order in which they run."""
    registry = module.__dict__.get("_diffusers_hook")
    hooks: Mapping[str, Any] = getattr(registry, "hooks", {})
    # The hook that was registered last is called first.
    for name, hook in reversed(list(hooks.items())):
        if name.startswith(_PREFIX) and any(map(_is_input, hook.metadata.values())):
            yield hook


def split_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of the modules whose inputs are split, each once."""
    return [module for module in dict.fromkeys(modules) if next(split_hooks(module), None) is not None]


def _is_input(plan: Any) -> bool:
    return not getattr(plan, "split_output", False)


@contextmanager
def _without_inputs(hooks: Iterable[SplitHook]) -> Iterator[None]:
    """Inside this block the hooks split no inputs, for that was done."""
    before = [(hook, hook.metadata) for hook in hooks]
    for hook, metadata in before:
        hook.metadata = {key: plan for key, plan in metadata.items() if not _is_input(plan)}
    try:
        yield
    finally:
        for hook, metadata in before:
            hook.metadata = metadata
