"""Corrected predictions: integers worked out by hand, replays, lowerings, and what is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache.errors import DcacheError
from dcache.predictors.corrections import Correction, Corrections, Corrector
from dcache.schedule import Plan, Schedule
from tests.engine.tiny_models import Double, Mix, Toy, integers, walk
from tests.pipelines import FLUX, PIXART, SD, STEPS, WAN, Shape

TIMES = [4, 3, 2, 1]


def corrected(scale: Any, shift: Any, anchor: int) -> Correction:
    return Correction(torch.tensor(scale), torch.tensor(shift), anchor)


def of_toy(rows: dict[int, Correction], site: str = "trunk", dim: int = -1, **plan: Any) -> Schedule:
    made = Schedule.of_steps([0, 2], 4, sites=site, **plan)
    its = replace(made.components[""], corrections=Corrections({site: rows}, {site: dim}))
    return replace(made, components={"": its})


# As in test_oracle: 40, 32, 24, 16 uncached; 40, 40, 24, 24 under `value`, 40, 39, 24, 23 under `delta`.
@pytest.mark.parametrize("lowering", ["auto", "replay"])
def test_predictions_are_scaled_and_shifted(lowering: str) -> None:
    toy = Toy()
    rows = {
        1: corrected([0.5, 0.5, 1.0, 1.0], [12.0, 0.0, -8.0, 0.0], 0),
        3: corrected([2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0], 2),
    }
    dcache.enable(toy, of_toy(rows, codec="value"), lowering=lowering)
    outputs = walk(toy, TIMES)
    assert [output[0, 1].tolist() for output in outputs] == [
        [40, 40, 40, 40],
        [32, 20, 32, 40],
        [24, 24, 24, 24],
        [48, 24, 24, 25],
    ]
    # Without an entry nothing is changed: not at 3, and what is remembered is not corrected.
    dcache.enable(toy, of_toy({1: rows[1]}, codec="value"), lowering=lowering)
    assert integers([walk(toy, TIMES)[3]]) == [24]


def test_a_change_is_corrected_where_it_has_been_added() -> None:
    toy = Toy()
    dcache.enable(toy, of_toy({1: corrected([2.0] * 4, [1.0] * 4, 0)}, codec="delta"))
    assert integers(walk(toy, TIMES)) == [40, 2 * 39 + 1, 24, 23]


def test_the_whole_models_output_is_corrected_along_any_dimension() -> None:
    toy = Toy()
    dcache.enable(toy, of_toy({1: corrected([1.0, 2.0], [0.0, 1.0], 0)}, "model", 1, codec="value"))
    # (1, 2, 4): dimension 1 has two channels.
    assert walk(toy, TIMES)[1].tolist() == [[[40] * 4, [81] * 4]]


def test_a_prediction_that_stands_on_another_anchor_is_left_alone() -> None:
    toy = Toy()
    dcache.enable(toy, of_toy({3: corrected([9.0] * 4, [9.0] * 4, 0)}, codec="value"))
    assert integers(walk(toy, TIMES)) == [40, 40, 24, 24]


def test_only_the_first_leaf_that_is_stored_is_corrected() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 2, y * 3

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Two(), Two()])
            self.eval()

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            y = x = x + timestep
            for block in self.blocks:
                x, y = block(x, y)
            return x + 100 * y

    # h = 5: 4h = 20 and 9h = 45; the second leaf is predicted as it is.
    pair = Pair()
    dcache.enable(pair, of_toy({1: corrected([2.0] * 4, [1.0] * 4, 0)}, codec="value"))
    assert integers(walk(pair, TIMES))[:2] == [4520, 4500 + 41]


@pytest.mark.filterwarnings(
    "ignore:.* is for 4 evaluations, and this run of Toy ended after 2:dcache.DcacheWarning"
)
def test_narrow_predictions_are_rounded_once() -> None:
    torch.manual_seed(0)
    model = Toy([Mix(), Mix()]).to(torch.bfloat16)
    x = torch.randn(1, 5, 4, dtype=torch.bfloat16)
    row = corrected([1.01, 0.7, -1.3, 1.0], [0.1, 3.0, 0.0, 1e-3], 0)
    plain = of_toy({2: row}, codec="delta:float32")
    with torch.no_grad():
        dcache.enable(model, replace(plain, components={"": replace(plain.components[""], corrections=None)}))
        first, _ = walk(model, [4, 3], x)
        y = (first.float() - (x + 4).float()) + (x + 3).float()
        dcache.enable(model, of_toy({1: row}, codec="delta:float32"))
        _, second = walk(model, [4, 3], x)
    assert second.dtype == torch.bfloat16
    assert torch.equal(second, (y * row.scale + row.shift).to(torch.bfloat16))


def test_as_many_channels_as_the_output_has() -> None:
    toy = Toy()
    dcache.enable(toy, of_toy({1: corrected([1.0] * 3, [0.0] * 3, 0)}))
    with pytest.raises(DcacheError, match=r"for 3 channels in dimension -1, .* shape \(1, 2, 4\): fit them"):
        walk(toy, TIMES)
    # A run that an error broke off is not said to have predicted nothing: warnings are errors here.
    dcache.disable(toy)
    assert integers(walk(toy, TIMES)) == [40, 32, 24, 16]
    toy = Toy()
    dcache.enable(toy, of_toy({1: corrected([1.0] * 3, [0.0] * 3, 0)}, dim=3), lowering="replay")
    with pytest.raises(DcacheError, match="in dimension 3"):
        walk(toy, TIMES)


def test_corrections_of_sites_that_are_not_bound_are_refused() -> None:
    table = Corrections({"block:1": {1: corrected([1.0], [0.0], 0)}}, {"block:1": -1})
    method = replace(dcache.methods.interval(interval=2, sites="trunk"), corrections=table)
    with pytest.raises(DcacheError, match=r"corrections for block:1, and the sites here are trunk"):
        dcache.enable(Toy(), method)


def test_a_model_that_cannot_be_understood_is_no_reason_to_correct_something_else() -> None:
    class Shuffled(Toy):
        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            for block in self.blocks:
                x = x.flip(0) + block(x)
            return x + timestep

    table = Corrections({"trunk": {1: corrected([1.0] * 4, [0.0] * 4, 0)}}, {"trunk": -1})
    method = replace(dcache.methods.interval(interval=2, sites="trunk"), corrections=table)
    model = Shuffled([Double(), Double()])
    dcache.enable(model, method)
    with pytest.raises(DcacheError, match="looks inside Shuffled, and that does not work"):
        walk(model, TIMES)


def test_the_self_check_and_uncorrected_methods_never_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = Corrector.predict

    def counted(self: Corrector, summed: Any, index: int, *args: Any) -> torch.Tensor:
        asked.append(index)
        return real(self, summed, index, *args)

    monkeypatch.setattr(Corrector, "predict", counted)
    toy = Toy()
    dcache.enable(toy, Schedule.of_steps([0, 2], 4))
    walk(toy, TIMES)
    assert asked == []
    dcache.enable(toy, of_toy({1: corrected([1.0] * 4, [0.0] * 4, 0)}))
    walk(toy, TIMES)
    assert asked == [1]


# Real pipelines -----------------------------------------------------------------------------------

COMPUTED = (0, 2, 5)
CASES = {
    "pixart": (PIXART, "", "batched", "trunk", 16, -1),
    "flux": (FLUX, "", "sequential", "trunk", 16, -1),
    "flux-model": (FLUX, "", "off", "model", 64, -1),
    "sd": (SD, "", "batched", "bracket:0", 8, 1),
    "wan": (WAN, "", "part", "trunk", 24, -1),
    "wan-model": (WAN, "", "sequential", "model", 4, 1),
}


def table_of(site: str, channels: int, dim: int, seed: int = 0) -> Corrections:
    noise = torch.Generator().manual_seed(seed)
    rows = {
        t: Correction(
            1 + 0.05 * torch.randn(channels, generator=noise),
            0.05 * torch.randn(channels, generator=noise),
            max(a for a in COMPUTED if a < t),
        )
        for t in range(STEPS)
        if t not in COMPUTED
    }
    return Corrections({site: rows}, {site: dim})


@pytest.mark.parametrize("name", CASES)
def test_the_trace_of_a_corrected_run_gives_the_same_bits(name: str, tmp_path: Any) -> None:
    shape, sampler, guidance, site, channels, dim = CASES[name]
    plain = Schedule.of_steps(COMPUTED, STEPS, sites=site)
    corrections = table_of(site, channels, dim)
    made = replace(plain, components={"": replace(plain.components[""], corrections=corrections)})
    pipe = shape.build(sampler)
    dcache.enable(pipe, made)
    first = shape.run(pipe, guidance)
    trace = dcache.trace(pipe)
    (plan,) = trace.components.values()
    assert plan.corrections == corrections
    dcache.enable(pipe, str(trace.save(tmp_path / "t.json")))
    again = shape.run(pipe, guidance)
    assert torch.equal(first, again)
    dcache.enable(pipe, plain)
    assert not torch.equal(first, shape.run(pipe, guidance))


@pytest.mark.parametrize("entries", [{2: 1}, {3: 1}], ids=["corrected", "no entry for it"])
def test_halves_that_are_carried_apart_stay_so(entries: dict[int, int]) -> None:
    weights = {"weights": {"*": {"2": {"0": -0.5, "1": 1.5}}}, "apart": {"*": {"2": {"1": 1.0}}}}
    plain = Schedule.of_steps([0, 1, 4], STEPS, sites="trunk", predictor="fitted", clock="step",
                              parameters=weights)  # fmt: skip
    rows = {t: Correction(torch.ones(16), torch.zeros(16), anchor) for t, anchor in entries.items()}
    its = replace(plain.components[""], corrections=Corrections({"trunk": rows}, {"trunk": -1}))
    outputs = []
    for made in (plain, replace(plain, components={"": its})):
        pipe = PIXART.build()
        dcache.enable(pipe, made)
        outputs.append(PIXART.run(pipe))
    assert torch.equal(*outputs)
    whole = replace(plain.components[""], parameters={"weights": weights["weights"]})
    dcache.enable(pipe, replace(plain, components={"": whole}))
    assert not torch.equal(outputs[0], PIXART.run(pipe))


def test_lowerings_of_a_corrected_run_agree() -> None:
    made = schedule_of(PIXART)
    outputs = []
    for lowering in ("auto", "replay"):
        pipe = PIXART.build()
        dcache.enable(pipe, made, lowering=lowering)
        outputs.append(PIXART.run(pipe))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    bracket = Schedule.of_steps(COMPUTED, STEPS, sites="bracket:0")
    its = replace(bracket.components[""], corrections=table_of("bracket:0", 8, 1))
    with pytest.raises(DcacheError, match="leave lowering='replay' out"):
        dcache.enable(SD.build(), replace(bracket, components={"": its}), lowering="replay")


def schedule_of(shape: Shape) -> Schedule:
    return Schedule(
        STEPS,
        {"": Plan({"*": {"trunk": tuple(t in COMPUTED for t in range(STEPS))}},
                  corrections=table_of("trunk", 16, -1))},
    )  # fmt: skip
