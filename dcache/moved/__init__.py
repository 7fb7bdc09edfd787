"""Old documented paths of modules, kept for one version: `dcache.discovery` is found here, and warns.

`dcache/__init__.py` adds this folder to the package's search path. `tools/move_imports.py` rewrites imports.
"""

import warnings


def warn(old: str, new: str) -> None:
    """Say that a module moved.

    Args:
        old: its path before.
        new: its path now.
    """
    warnings.warn(
        f"{old} moved to {new}; the old path goes with the next version (tools/move_imports.py rewrites "
        "imports)",
        DeprecationWarning,
        stacklevel=3,
    )
