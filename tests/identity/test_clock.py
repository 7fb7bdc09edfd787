"""Clocks of an evaluation: the log signal-to-noise ratio by hand, and where a clock is not known."""

import math

import pytest

from dcache.identity.clock import log_snr
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


def test_without_a_noise_level_and_a_table_nothing_is_known():
    assert log_snr(None, None, False) is None
    assert log_snr(500.0, None, False) is None
    assert log_snr(None, None, True, [0.9, 0.5]) is None


def test_a_noise_level_comes_before_a_timestep():
    assert log_snr(1.0, 2.0, False, [0.99, 0.8]) == pytest.approx(-2 * math.log(2))
    assert log_snr(1.0, None, False, [0.99, 0.8]) == pytest.approx(math.log(4))


def test_a_timestep_is_the_nearest_entry_of_the_table():
    table = [0.99, 0.8, 0.5, 0.2]
    for timestep, alpha in ((-3.0, 0.99), (0.4, 0.99), (0.6, 0.8), (2.2, 0.5), (3.0, 0.2), (999.0, 0.2)):
        assert log_snr(timestep, None, False, table) == pytest.approx(math.log(alpha / (1 - alpha)))


def test_less_noise_is_a_higher_ratio():
    for flow in (False, True):
        values = [log_snr(None, sigma, flow) for sigma in (0.9, 0.5, 0.1)]
        assert values == sorted(values)
    # Flow matching mixes (1 - s) x0 + s noise: equal parts at one half.
    assert log_snr(None, 0.5, True) == 0.0
    assert log_snr(None, 1.0, False) == 0.0
