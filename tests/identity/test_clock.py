"""Clocks of an evaluation: the log signal-to-noise ratio by hand, and where a clock is not known."""

import math

import pytest

from dcache.identity.run import Run


def test_log_snr_by_hand():
    assert Run(sigmas=[2.0], timesteps=[9]).clock("logsnr") == pytest.approx(-2 * math.log(2))
    assert Run(sigmas=[0.25], flow=True).clock("logsnr") == pytest.approx(2 * math.log(3))
    alphas = Run(timesteps=[1], alphas_cumprod=[0.99, 0.8, 0.5])
    assert alphas.clock("logsnr") == pytest.approx(math.log(4))
    assert Run(timesteps=[999], alphas_cumprod=[0.99, 0.5]).clock("logsnr") == pytest.approx(0)


def test_flow_log_snr_is_clamped_at_both_ends():
    top = 2 * math.log(999)
    values = [Run(sigmas=[s], flow=True).clock("logsnr") for s in (1.0, 1 - 1e-4, 0.999, 0.001, 1e-5, 0.0)]
    assert values == pytest.approx([-top, -top, -top, top, top, top])
    assert math.isfinite(Run(sigmas=[0.0]).clock("logsnr"))
    assert math.isfinite(Run(timesteps=[0], alphas_cumprod=[1.0]).clock("logsnr"))
    assert math.isfinite(Run(timesteps=[0], alphas_cumprod=[0.0]).clock("logsnr"))
