"""SenCache's change indicator, by hand."""

import math

import pytest
import torch

from dcache.errors import DcacheError
from dcache.methods.expected_change import ExpectedChange, Sensitivities


def test_sencaches_expected_change_by_hand():
    # At levels of about 0.2 the latents count three times, at 0.8 once; the level once and twice.
    indicator = ExpectedChange((0.2, 3.0, 1.0, 0.8, 1.0, 2.0))

    def evaluation(level: float, *x: float, computed: bool = False) -> float:
        indicator.update(torch.tensor(x), 2.0 * math.log((1.0 - level) / level))
        change = indicator.change()
        indicator.end_step(computed, None)
        return change

    assert evaluation(0.9, 0.0, 0.0, computed=True) == math.inf
    # rms(3, 1) = sqrt(5), against the last computed evaluation; the row is that of 0.9.
    assert evaluation(0.7, 3.0, 1.0) == pytest.approx(math.sqrt(5) + 2.0 * 0.2)
    assert evaluation(0.4, 4.0, 4.0, computed=True) == pytest.approx(4.0 + 2.0 * 0.5)
    assert evaluation(0.1, 4.0, 2.0) == pytest.approx(3.0 * math.sqrt(2) + 0.3)


def test_sencache_without_a_noise_level_is_refused():
    indicator = ExpectedChange((0.5, 1.0, 1.0))
    indicator.update(torch.ones(1), None)
    indicator.end_step(True, None)
    indicator.update(torch.ones(1), None)
    with pytest.raises(DcacheError, match=r"needs the noise level of each evaluation.*dcache\.step\(module"):
        indicator.change()


def test_every_branch_has_an_indicator_of_its_own():
    make = Sensitivities((0.5, 1.0, 1.0))
    assert make() is not make()
    assert make == Sensitivities((0.5, 1.0, 1.0))
