"""Whether optional packages are installed."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from dcache.errors import DcacheError
from dcache.util.distribution import install_line

# Module -> package, of those that commands need and a plain installation may lack.
PACKAGES = {
    "PIL": "pillow",
    "accelerate": "accelerate",
    "deap": "deap",
    "filelock": "filelock",
    "jinja2": "jinja2",
    "matplotlib": "matplotlib",
    "open_clip": "open-clip-torch",
    "starlette": "starlette",
    "torchmetrics": "torchmetrics",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "uvicorn": "uvicorn",
}


def missing(packages: Mapping[str, str]) -> list[str]:
    """Names, as pip uses them, of the packages that are not installed.

    Args:
        packages: module -> package.
    """
    return [package for module, package in packages.items() if importlib.util.find_spec(module) is None]


def require(extra: str, user: str, *modules: str) -> None:
    """Check that the packages of an extra are installed, before the work that needs them.

    Args:
        extra: name of dcache's extra that installs them.
        user: what needs them, for the message: "dcache bench".
        modules: modules in `PACKAGES`.

    Raises:
        DcacheError: some are missing; the message names them and has the line that installs the extra.
    """
    absent = missing({module: PACKAGES[module] for module in modules})
    if absent:
        raise DcacheError(f"{user} needs {', '.join(absent)}: {install_line(extra)}")


def torchvision_problem() -> str | None:
    """Why torchvision is installed and cannot be imported, with what to do; None where all is well.

    A torchvision for another build of torch does not load, and transformers, which looks for it, fails with a
    message about one of its own classes. This imports torchvision: call it after such a failure.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # The operating system's loader, torch and torchvision raise several kinds.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return (
            f"torchvision{_version('torchvision')} does not load beside torch{_version('torch')} ({reason}), "
            "and transformers uses it where it is installed. Install the torchvision of the build of this "
            "torch (https://pytorch.org/get-started/locally/), or remove it: pip uninstall torchvision"
        )
    return None


def _version(package: str) -> str:
    try:
        return f" {version(package)}"
    except PackageNotFoundError:
        return ""
