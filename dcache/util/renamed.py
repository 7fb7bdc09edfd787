"""Old names of public objects: they work for one version, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that returns renamed objects under their old names, with a DeprecationWarning.

    Args:
        module: the module's name.
        names: old name -> new name in the same module.

    Returns:
        A function of the attribute's name. It raises AttributeError for any other name.

    >>> from dcache.util.renamed import renamed
    >>> renamed("math", {"circle": "pi"})("square")
    Traceback (most recent call last):
    AttributeError: module 'math' has no attribute 'square'
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is named {names[name]} now; the old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], names[name])

    return get
