"""A warning for caching that is enabled on an outer module whose own call never runs.

A robot policy or another wrapper may call its denoiser directly (`policy.unet(x, t)`), and never itself. Then
nothing that is enabled on the wrapper can have an effect. The part that takes the timestep and holds most of
the parameters is watched: where it runs and the wrapper's own call did not, one warning names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from dcache.identity.timestep import takes_time
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import argument_names, parameters_of

# A part with a smaller share of the parameters is an embedding or a block, not the denoiser.
SHARE = 0.5


def inner_denoiser(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The part of a module that looks like its denoiser: path and module, None where there is none.

    Where the module's own call takes a timestep it may be the denoiser, and its parts those of one: blocks in
    lists are none then. Should such a part be called by others, this is noticed as well.

    Args:
        module: a module; one whose own call takes any arguments (`*args`) has none.

    >>> from torch import nn
    >>> from dcache.engine.inner_denoiser import inner_denoiser
    >>> inner_denoiser(nn.Linear(2, 2)) is None
    True
    """
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in parameters_of(type(module).forward))
    if takes_any:
        return None
    size, itself = _size(module), takes_time(module)
    for path, part in module.named_modules():
        in_list = any(name.isdigit() for name in path.split("."))
        # Beside itself an embedding of the timestep takes nothing else.
        denoises = takes_time(part) and len(argument_names(type(part).forward)) > 2
        if path and denoises and not (itself and in_list) and _size(part) >= SHARE * size > 0:
            return path, part
    return None


class InnerDenoiserCall(ModuleIntercept):
    """The call of a wrapper's denoiser.

    Args:
        module: the denoiser.
        idle: whether the wrapper's own call was never seen.
        warn: called once, when the denoiser runs while `idle()`.
    """

    name = "inner denoiser"

    def __init__(self, module: nn.Module, idle: Callable[[], bool], warn: Callable[[], None]) -> None:
        super().__init__(module)
        self.idle = idle
        self.warn = warn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Look once, then leave."""
        inner = self.inner
        self.remove()
        if self.idle():
            self.warn()
        return inner(*args, **kwargs)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
