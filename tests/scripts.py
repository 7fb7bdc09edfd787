"""Scripts outside the package, which tests call as modules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def load(path: str | Path, name: str | None = None) -> Any:
    """A script as a module.

    Args:
        path: its file, below the repository's root.
        name: of the module; None for the file's.
    """
    path = ROOT / path
    spec = importlib.util.spec_from_file_location(name or path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
