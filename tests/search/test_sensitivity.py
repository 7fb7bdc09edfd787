"""SenCache's numbers: those of a linear denoiser are its coefficients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.eval.subject import load
from dcache.search.sensitivity import SensitivityHook, rms, sensitivities


class Affine(nn.Module):
    """a x + b t, as a pipeline calls it."""

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor, **more: Any) -> tuple[Any, ...]:
        return (more["a"] * hidden_states - 5.0 * timestep,)


def test_an_affine_denoisers_sensitivities_are_its_coefficients() -> None:
    model, levels = Affine(), []
    hook = SensitivityHook(model, levels)
    model.register_forward_hook(hook, with_kwargs=True)
    noise = torch.arange(6.0).view(1, 6)
    for level in (0.9, 0.6, 0.5):
        # Two branches; the second is no evaluation of its own.
        for a in (3.0, 99.0):
            levels.append(level)
            model(level * noise, timestep=torch.tensor(level), a=a)
    expected = [(0.9, 3.0, 5.0), (0.6, 3.0, 5.0)]
    assert np.array(hook.rows) == pytest.approx(np.array(expected), rel=1e-4)


def test_a_denoiser_without_a_timestep_is_refused() -> None:
    with pytest.raises(DcacheError, match="Linear has no argument 'timestep'"):
        SensitivityHook(nn.Linear(2, 2), [])


def test_of_a_pipeline_there_is_a_row_for_every_evaluation_but_the_last() -> None:
    subject = load("demo", guidance=3.0, device="cpu", steps=4)
    model = subject.pipe.transformer
    table = np.reshape(sensitivities(subject, ["a red circle", "a blue star"], model), (-1, 3))
    assert len(table) == 3
    assert list(table[:, 0]) == sorted(table[:, 0], reverse=True)
    assert 0 < table[:, 1:].min() <= table[:, 1:].max() < 100
    assert not model._forward_hooks


def test_the_root_mean_square() -> None:
    assert rms(torch.tensor([3.0, 4.0, 0.0, 0.0])) == pytest.approx(2.5)
