"""Tolerances of the self-check: largest relative distance of two computations of one output, by dtype."""

from __future__ import annotations

import torch

TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
    torch.int8: 5e-2,
    torch.float8_e4m3fn: 1e-1,
}
