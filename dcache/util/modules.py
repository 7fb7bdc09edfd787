"""The modules within a module, found at little cost."""

from __future__ import annotations

from torch import nn


def modules_of(module: nn.Module) -> list[nn.Module]:
    """The module and all within it, each once, in the order of `module.modules()`.

    That one resumes a generator for each level above each module, which first calls and every pipeline call
    would pay for several times.
    """
    seen: dict[nn.Module, None] = {}
    stack = [module]
    while stack:
        part = stack.pop()
        if part not in seen:
            seen[part] = None
            if part._modules:
                stack += [child for child in reversed(part._modules.values()) if child is not None]
    return list(seen)
