"""Machine and package versions that figures were measured with."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "diffusers", "transformers", "torchmetrics", "matplotlib", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores, threads, system and load; and the GPUs, if there are any."""
    import torch

    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        facts["cuda"] = torch.version.cuda
    return facts


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python, dcache, the packages that figures depend on, and those in `more`."""
    import dcache

    # dcache's own version is not read from metadata, which is outdated in an editable install.
    installed = {"python": platform.python_version(), "dcache": dcache.__version__}
    for name in (*PACKAGES, *more):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def heading(hardware: dict[str, Any], software: dict[str, str]) -> str:
    """Machine and versions on one line."""
    where = ", ".join(dict.fromkeys(hardware.get("gpus", []))) or hardware["processor"]
    names = ("torch", "diffusers", "dcache")
    return f"{where}, threads: {hardware['threads']}; python {software['python']}, " + ", ".join(
        f"{name} {software[name]}" for name in names
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
