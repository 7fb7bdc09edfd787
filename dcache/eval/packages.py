"""Whether optional packages are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping


def missing(packages: Mapping[str, str]) -> list[str]:
    """Those that are not installed, by the names that pip knows.

    Args:
        packages: module -> package.
    """
    return [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
