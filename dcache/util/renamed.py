"""Old names of public objects and old paths of modules: they work until 0.3, with a DeprecationWarning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

# The first version without the old names and paths.
REMOVED_IN = "0.3"


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
            f"{module}.{name} is named {names[name]} now; the old name is removed in {REMOVED_IN}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], names[name])

    return get


def warn_moved(old: str, new: str) -> None:
    """Say that a module moved; called by the module under its old path.

    Args:
        old: its path before.
        new: its path now.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True, action="always") as caught:
    ...     warn_moved("dcache.a", "dcache.b")
    >>> print(caught[0].message)
    dcache.a moved to dcache.b; the old path is removed in 0.3 (tools/move_imports.py rewrites imports)
    """
    warnings.warn(
        f"{old} moved to {new}; the old path is removed in {REMOVED_IN} "
        "(tools/move_imports.py rewrites imports)",
        DeprecationWarning,
        stacklevel=3,
    )
