"""EasyCache on pipelines whose denoiser takes more than it returns, or returns more than it takes.

The oracle is the paper's indicator, written down once more over the inputs and outputs that an observer sees.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import methods
from dcache.engine.call import Call
from dcache.engine.observe import Observer, observe
from dcache.identity.denoisers import denoisers
from dcache.intercept.pytree import flatten
from dcache.method import Method
from dcache.methods.output_rate import OutputRate
from dcache.probes import Probe, SinceCompute
from dcache.schedulers import ChangeAbove, any_of
from tests.zoo.registry import ENTRIES

Cut = Callable[[torch.Tensor], torch.Tensor]
ZOO = {entry.name: entry for entry in ENTRIES}
# The part of the denoiser's input that is the sample.
SAMPLES: dict[str, Cut] = {
    "StableDiffusionInpaintPipeline": lambda x: x[:, :4],
    "KandinskyV22InpaintPipeline": lambda x: x[:, :4],
    "StableVideoDiffusionPipeline": lambda x: x[:, :, :4],
    "FluxFillPipeline": lambda x: x[..., :64],
    "WanImageToVideoPipeline": lambda x: x[:, :4],
    "Kandinsky5I2VPipeline": lambda x: x[..., :4],
}
FAST = ("StableDiffusionInpaintPipeline", "FluxFillPipeline", "Kandinsky5I2VPipeline")


class Seen(Observer):
    """Inputs and outputs of the branch that decides."""

    def __init__(self) -> None:
        self.branch = ""
        self.x: list[torch.Tensor] = []
        self.y: list[torch.Tensor] = []

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.branch = self.branch or call.branch.name
        if call.branch.name == self.branch:
            x = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
            self.x.append(x.clone())

    def on_output(self, call: Call, output: Any) -> None:
        if call.branch.name == self.branch:
            self.y.append(flatten(output)[0][0].clone())


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().mean())


def decisions(
    x: Sequence[torch.Tensor], y: Sequence[torch.Tensor], threshold: float, warmup: int
) -> list[int]:
    """The computed evaluations: k from the last two computed outputs, its sum against the threshold."""
    computed: list[int] = []
    total = 0.0
    for t in range(len(x)):
        if t >= max(warmup, 2) and t < len(x) - 1:
            a, b = computed[-2:]
            k = distance(y[a], y[b]) / distance(x[a], x[b])
            total += k * distance(x[t], x[t - 1]) / float(y[b].abs().mean())
            if total < threshold:
                continue
        computed.append(t)
        total = 0.0
    return computed


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in SAMPLES]
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_computed_is_decided_by_the_sample_alone(name: str) -> None:
    entry, threshold = ZOO[name], 0.4
    pipe = entry.pipeline()
    dcache.enable(pipe, methods.easycache(threshold=threshold, warmup=2))
    (module,) = denoisers(pipe).values()
    seen = Seen()
    with observe(module, seen):
        entry.run(pipe)
    (plan,) = dcache.trace(pipe).components.values()
    row = plan.rows.get(seen.branch, plan.rows.get("*"))
    assert row is not None
    (computed,) = row.values()
    x = [SAMPLES[name](each) for each in seen.x]
    expected = decisions(x, seen.y, threshold, 2)
    assert [t for t, c in enumerate(computed) if c] == expected
    assert len(expected) < len(x)


class Wide(nn.Module):
    """Tokens of a sample and of a mask behind them; returns three times the sample."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        return 3 * x[:, :2]


def sample(value: float, mask: float = 100.0) -> torch.Tensor:
    """Two tokens of the sample and one of a mask, (1, 3, 4)."""
    return torch.tensor([value, value, mask])[None, :, None].expand(1, 3, 4).clone()


def test_a_probe_of_the_input_compares_what_the_output_continues_from_the_first_call_on() -> None:
    shapes: list[tuple[int, ...]] = []
    changes: list[float] = []

    class Shown(SinceCompute):
        def update(self, x: torch.Tensor, logsnr: float | None) -> None:
            shapes.append(tuple(x.shape))
            super().update(x, logsnr)

        def change(self) -> float:
            changes.append(super().change())
            return changes[-1]

    rule = any_of(ChangeAbove(0.6))
    probe = Probe("input", indicator=Shown)
    model = dcache.enable(Wide(), Method(rule=rule, sites=("model",), codec="delta", probe=probe))
    outputs = []
    with torch.no_grad():
        for t, value in enumerate((2.0, 3.0, 4.0, 8.0)):
            dcache.step(model, t)
            outputs.append(model(sample(value, mask=50.0 + t), float(t)).flatten().tolist())
    # All of the first input, until its output is there.
    assert shapes == [(1, 3, 4), *[(1, 2, 4)] * 4]
    # Since evaluation 0, then since evaluation 2; the mask would make it next to nothing.
    assert changes == [0.5, 1.0, 1.0]
    # 3 x, or x and the change 2 x of the last compute.
    assert outputs == [[6.0] * 8, [3.0 + 4.0] * 8, [12.0] * 8, [24.0] * 8]


def test_the_first_input_that_is_kept_is_no_larger_than_the_output() -> None:
    method = methods.easycache(threshold=9.0, warmup=1, last=False)
    model = dcache.enable(Wide(), method)
    with torch.no_grad():
        for t in range(4):
            dcache.step(model, t)
            model(sample(float(t)), float(t))
    # One anchor of the delta; of the indicator two inputs, two outputs and the last input, of 8 numbers each.
    assert dcache.stats(model).bytes_held == (1 + 2 + 2 + 1) * 8 * 4


def test_an_evaluation_that_returns_nothing_teaches_nothing() -> None:
    rate = OutputRate()
    for x, y in ((1.0, 2.0), (2.0, None), (3.0, 6.0)):
        rate.update(torch.tensor([x]), None)
        rate.end_step(True, (None if y is None else torch.tensor([y]), "more"))
    rate.update(torch.tensor([4.0]), None)
    # k of the first and the third: 4 / 2; and then 2 * 1 / 6.
    assert rate.change() == pytest.approx(2 * 1 / 6)


def test_a_wider_output_is_continued_as_far_as_the_input_reaches() -> None:
    class Varied(nn.Module):
        def forward(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
            return torch.cat([3 * x, 5 * x], dim=1)

    model = dcache.enable(Varied(), methods.interval(interval=2, sites="model", codec="delta"))
    outputs = []
    with torch.no_grad(), warnings.catch_warnings():
        for t, value in enumerate((1.0, 2.0)):
            dcache.step(model, t)
            outputs.append(model(torch.full((1, 1, 2, 2), value), float(t))[:, :, 0, 0].tolist())
    # The sample's channel follows the input, 2 + (3 - 1); the variance stays.
    assert outputs == [[[3.0, 5.0]], [[4.0, 5.0]]]


class _Behind(nn.Module):
    """Three channels of the sample, which come behind one of a condition, times the timestep."""

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return sample[:, 1:] * timestep


def test_a_condition_in_front_of_the_sample_is_said_and_everything_is_computed() -> None:
    model = dcache.enable(_Behind(), "easycache", warmup=2, last=False)
    condition = torch.ones(1, 3, 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i, t in enumerate((4.0, 3.0, 2.0, 1.0)):
            dcache.step(model, i, timestep=t, steps=4)
            model(torch.cat([condition, torch.full((1, 1, 2), t)], 1), torch.tensor([t]))
    assert sum("did not change between two computed evaluations" in str(w.message) for w in said) == 1
    assert not any("produced NaN" in str(w.message) for w in said)
    assert dcache.stats(model).computed == 4
