"""Whether optional packages are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping


def missing(packages: Mapping[str, str]) -> list[str]:
    """Names, as pip uses them, of the packages that are not installed.

    Args:
        packages: module -> package.
    """
    return [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
