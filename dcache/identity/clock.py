"""Clocks: the value that an evaluation stands at, for predictors that go by more than its number."""

from __future__ import annotations

import math
from collections.abc import Sequence

CLOCKS = ("step", "timestep", "sigma", "logsnr")
_FLOW_MARGIN = 1e-3


def log_snr(
    timestep: float | None, sigma: float | None, flow: bool, alphas_cumprod: Sequence[float] = ()
) -> float | None:
    """Log signal-to-noise ratio of one evaluation: 2 ln(alpha / sigma).

    Args:
        timestep: its timestep, an index into `alphas_cumprod`; read only where `sigma` is None.
        sigma: its noise level: noise over signal, or from 0 to 1 with `flow`.
        flow: whether the noise level is that of flow matching, x = (1 - sigma) x0 + sigma noise.
        alphas_cumprod: the training table of samplers that have no noise levels.

    Returns:
        None where neither is known.
    """
    if sigma is not None:
        if flow:
            s = min(max(sigma, _FLOW_MARGIN), 1.0 - _FLOW_MARGIN)
            return 2.0 * math.log((1.0 - s) / s)
        return -2.0 * math.log(max(sigma, 1e-8))
    if timestep is not None and alphas_cumprod:
        i = min(max(round(timestep), 0), len(alphas_cumprod) - 1)
        a = min(max(alphas_cumprod[i], 1e-8), 1.0 - 1e-8)
        return math.log(a / (1.0 - a))
    return None
