"""When an op takes its Triton kernel, and when its torch reference.

A kernel is taken for tensors on one CUDA device from the size in `FROM` on, where Triton is installed. The
environment variable DCACHE_KERNELS, read on import, changes that: `off` takes none; `on` takes them at every
size, and on a CPU too where TRITON_INTERPRET=1 lets Triton's interpreter run them (slowly: to test what
stands on them).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch

from dcache.errors import DcacheError

# Elements below which an op keeps to torch: 0 until it is measured on a GPU.
FROM = {"weighted_sum": 0, "weighted_sums": 0, "store": 0, "changes": 0, "gather_rows": 0, "scatter_rows": 0}
# What a kernel reads and writes; float64 and complex numbers are the references'.
DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn})
_FP8_SINCE = (8, 9)
# Elements of one thread that references work on at a time: 512 KiB in float32. Half of it was slower.
CPU_BLOCK = 1 << 17
_MODES = ("auto", "on", "off")

mode = os.environ.get("DCACHE_KERNELS", "auto")


def possible(device: torch.device) -> bool:
    """Whether kernels can run on this device, and may.

    Raises:
        DcacheError: DCACHE_KERNELS is none of its values.
    """
    # Asked once for every op: the usual answers come first.
    if mode == "auto":
        return device.type == "cuda" and _has_triton()
    if mode not in _MODES:
        raise DcacheError(f"DCACHE_KERNELS is {mode!r}: expected one of {', '.join(_MODES)}")
    if mode == "off" or not _has_triton():
        return False
    return device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")


def taken(op: str, *tensors: torch.Tensor | None) -> bool:
    """Whether an op takes its kernel for these tensors, all that it reads and writes.

    They must be plain tensors on one device, of dtypes that kernels know, and gradients of none may be asked
    for. The largest gives the size.
    """
    graded = torch.is_grad_enabled()
    device, most = None, 0
    for t in tensors:
        if t is None:
            continue
        if device is None:
            device = t.device
        dtype, size = t.dtype, t.numel()
        if (
            t.device != device
            or dtype not in DTYPES
            or type(t) not in _PLAIN
            or not size
            or (graded and t.requires_grad)
            or (dtype is torch.float8_e4m3fn and not _knows_fp8(device))
        ):
            return False
        most = max(most, size)
    if device is None or not possible(device):
        return False
    return mode == "on" or most >= FROM[op]


def cpu_block() -> int:
    """Elements that a reference works on at a time, for its wide copies to stay in the cores' caches."""
    return CPU_BLOCK * torch.get_num_threads()


def at(device: torch.device) -> AbstractContextManager[object]:
    """Launches inside go to this device."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def upload(numbers: Sequence[object], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A small tensor of these numbers on the device, without waiting for what runs there.

    Raises:
        DcacheError: a CUDA graph is being captured: by its replays the memory copied from is another's.
    """
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=dtype)
    if torch.cuda.is_current_stream_capturing():
        raise DcacheError(
            "a CUDA graph is being captured, and its replays would repeat this call's decisions and numbers: "
            "capture blocks, not the sums that dcache makes around them; or give weights as a tensor"
        )
    return torch.tensor(numbers, dtype=dtype).pin_memory().to(device, non_blocking=True)


_PLAIN = (torch.Tensor, torch.nn.Parameter)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _knows_fp8(device: torch.device) -> bool:
    """Whether Triton converts float8_e4m3fn there: NVIDIA's from Ada and Hopper on, and its interpreter."""
    if device.type == "cpu":
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= _FP8_SINCE
