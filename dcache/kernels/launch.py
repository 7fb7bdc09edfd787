"""The choice between an op's Triton kernel and its torch reference.

A kernel is used for tensors on one CUDA device with at least `MIN_ELEMENTS` elements, if Triton is installed.
The environment variable DCACHE_KERNELS, read on import, changes that: `off` uses no kernel; `on` uses kernels
at every size, and also on a CPU if TRITON_INTERPRET=1 is set (Triton's interpreter: slow, for tests).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch

from dcache.errors import DcacheError

# Fewest elements for which an op uses its kernel.
MIN_ELEMENTS = {
    "weighted_sum": 0,
    "weighted_sums": 0,
    "store": 0,
    "changes": 0,
    "gather_rows": 0,
    "scatter_rows": 0,
    "pack": 0,
    "unpack": 0,
    "ragged_attention": 0,
    "merge": 0,
    "column_stats": 0,
}
# Dtypes that kernels read and write; float64 and complex tensors use the references.
DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn})
_FP8_SINCE = (8, 9)
# Elements per thread that references process at a time: 512 KiB in float32. Half of it was slower.
CPU_BLOCK = 1 << 17
_MODES = ("auto", "on", "off")

mode = os.environ.get("DCACHE_KERNELS", "auto")


def possible(device: torch.device) -> bool:
    """True if kernels can run on this device and DCACHE_KERNELS allows them.

    Raises:
        DcacheError: DCACHE_KERNELS has an unknown value, or is `on` where Triton is not installed.
    """
    # Called for every op, so the usual case comes first.
    if mode == "auto":
        return device.type == "cuda" and _has_triton()
    if mode not in _MODES:
        raise DcacheError(f"DCACHE_KERNELS is {mode!r}: expected one of {', '.join(_MODES)}")
    if mode == "off":
        return False
    if not _has_triton():
        from dcache.util.distribution import install_line

        raise DcacheError(f"DCACHE_KERNELS is 'on', which needs Triton: {install_line('kernels')}")
    return device.type == "cuda" or (device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")


def taken(op: str, *tensors: torch.Tensor | None) -> bool:
    """True if an op uses its kernel for these tensors.

    They must be plain tensors on one device, with dtypes that kernels support, and none may need gradients.
    The size that counts is that of the largest.

    Args:
        op: name of the op.
        *tensors: all tensors that the op reads and writes.
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
    return mode == "on" or most >= MIN_ELEMENTS[op]


def cpu_block() -> int:
    """Elements that a reference processes at a time, so that its wide copies stay in the cores' caches."""
    return CPU_BLOCK * torch.get_num_threads()


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Context manager that makes this the current CUDA device."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)


def upload(numbers: Sequence[object], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A small tensor of these numbers on the device, without a sync.

    Raises:
        DcacheError: a CUDA graph is being captured. Its replays would copy from memory that was freed.
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
    """True if Triton converts float8_e4m3fn there: NVIDIA GPUs since Ada and Hopper, and the interpreter."""
    if device.type == "cpu":
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= _FP8_SINCE
