"""`dcache env`: facts for a bug report: versions, devices, availability of kernels."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib import metadata, util
from typing import TYPE_CHECKING, Any

import dcache
from dcache.cli.groups import print_named
from dcache.util.distribution import install_line

if TYPE_CHECKING:
    from argparse import _SubParsersAction

# Packages whose versions are printed, the required ones first.
PACKAGES = (
    "torch",
    "diffusers",
    "numpy",
    "safetensors",
    "transformers",
    "accelerate",
    "triton",
    "torchmetrics",
    "torchvision",
    "open-clip-torch",
    "deap",
    "peft",
    "dcache-demo",
)


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("env", help="versions and devices, for a bug report")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one line for each fact."""
    return print_named(environment(), arguments.json)


def environment() -> dict[str, Any]:
    """Name -> text: dcache, Python, the operating system, packages, devices, kernels."""
    import torch

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices = cuda or (["Apple GPU"] if torch.backends.mps.is_available() else ["none"])
    return {
        "dcache": dcache.__version__,
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "gpu": ", ".join(devices),
        "cuda": torch.version.cuda or "none",
        "triton kernels": _kernels(bool(cuda)),
        **{package: _version(package) for package in PACKAGES},
    }


def _kernels(cuda: bool) -> str:
    if util.find_spec("triton") is None:
        return f"not installed: {install_line('kernels')}"
    return "possible" if cuda else "not here"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
