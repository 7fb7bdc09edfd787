"""What figures were measured on and with."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "diffusers", "transformers", "torchmetrics", "matplotlib", "numpy")


def machine() -> dict[str, Any]:
    """Processor, cores, threads, system, load, and the GPUs where there are any."""
    import torch

    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(terse=True),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        found["cuda"] = torch.version.cuda
    return found


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Python's version and those of the packages that figures depend on."""
    import dcache

    # Not from the installed metadata: an editable install keeps the version that it was installed with.
    found = {"python": platform.python_version(), "dcache": dcache.__version__}
    for name in (*PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


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
