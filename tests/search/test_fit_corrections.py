"""Corrections fitted: planted distortions come back, and what cannot be fitted is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch

import dcache
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.observe import SiteOutput
from dcache.errors import DcacheError, DcacheWarning
from dcache.schedule import Plan, Schedule
from dcache.search.corrections import Fitting, fit_corrections
from dcache.search.observing.channel_sums import Sums
from tests.pipelines import FLUX, PIXART, SD, STEPS, WAN
from tests.search.pipeline_subjects import shaped

ROW = (True, False, False, True, False, False)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_with_a_reference_predictions_are_brought_to_its_outputs() -> None:
    fitting = Fitting(Plan({"*": {"model": (True, False)}}, codec="value"), joint=True)
    y = noise(1, 50, 2).float()
    moments = [Call(Branch("only", 1), t, float(t)) for t in range(2)]
    fitting.begin()
    for t, moment in enumerate(moments):
        fitting.expect("model", moment, SiteOutput([3 * y - t], None, (0,)))
    for t, moment in enumerate(moments):
        fitting.see("model", moment, SiteOutput([y + t], None, (0,)))
    corrections, _ = fitting.solve(published=False)
    row = corrections.table["model"][1]
    # Predicted is y; the reference has 3 y - 1 there, the pipeline itself y + 1.
    assert row.scale.tolist() == pytest.approx([3.0, 3.0])
    assert row.shift.tolist() == pytest.approx([-1.0, -1.0], abs=1e-6)
    fitting.begin()
    fitting.expect("model", moments[1], SiteOutput([y[:, :3]], None, (0,)))
    fitting.see("model", moments[0], SiteOutput([y], None, (0,)))
    with pytest.raises(DcacheError, match="the same pipeline in full precision"):
        fitting.see("model", moments[1], SiteOutput([y], None, (0,)))


@pytest.mark.filterwarnings("ignore:corrections of:dcache.errors.DcacheWarning")
def test_a_reference_that_is_the_pipeline_itself_changes_nothing() -> None:
    subject = shaped(PIXART)
    schedule = made("trunk", "delta", PIXART.part)
    alone, _ = fit_corrections(subject, schedule, ["1"])
    both, _ = fit_corrections(subject, schedule, ["1"], reference=PIXART.build())
    assert alone.digest() == both.digest()


def walk(fitting: Fitting, features: torch.Tensor, branch: str = "0", x: torch.Tensor | None = None) -> None:
    """Show the features (T, 1, N, C) of one run, as changes of `x` if it is given."""
    its = Branch(branch, 9)
    for t, y in enumerate(features):
        delta = None if x is None else [y - x[t]]
        fitting.see("trunk", Call(its, t, float(t)), SiteOutput([y], delta, (0,)))


def test_each_prediction_is_compared_with_what_was_computed_there() -> None:
    scale, shift = noise(6, 3, seed=1), noise(6, 3, seed=2)
    # The output is a distortion of its anchor's, so the correction has to be that distortion.
    features = noise(6, 1, 40, 3).float()
    for t, anchor in ((1, 0), (2, 0), (4, 3), (5, 3)):
        features[t] = scale[t].float() * features[anchor] + shift[t].float()
    fitting = Fitting(Plan({"*": {"trunk": ROW}}, codec="value"))
    fitting.begin()
    walk(fitting, features[:, :, :25])
    fitting.begin()
    walk(fitting, features[:, :, 25:])
    corrections, quality = fitting.solve(published=False)
    rows = corrections.table["trunk"]
    assert {t: row.anchor for t, row in rows.items()} == {1: 0, 2: 0, 4: 3, 5: 3}
    for t, row in rows.items():
        assert torch.allclose(row.scale.double(), scale[t], atol=1e-5)
        assert torch.allclose(row.shift.double(), shift[t], atol=1e-5)
    assert quality["trunk"].before < quality["trunk"].after == pytest.approx(1.0, abs=1e-6)


def test_changes_and_predictors_with_weights_are_followed() -> None:
    x = noise(6, 1, 30, 2, seed=3).float()
    z = noise(6, 1, 30, 2, seed=4).float()
    # Newton on the step: at 4 from anchors 0 and 3, z_3 + (z_3 - z_0) / 3; then y = 2 (x + z) - 1.
    z[4] = 2 * (x[4] + z[3] + (z[3] - z[0]) / 3) - 1 - x[4]
    plan = Plan(
        {"*": {"trunk": ROW}}, codec="delta", predictor="newton", parameters={"order": 1}, clock="step"
    )
    fitting = Fitting(plan)
    walk(fitting, x + z, x=x)
    row = fitting.solve(published=False)[0].table["trunk"][4]
    assert torch.allclose(row.scale, torch.full((2,), 2.0), atol=1e-4)
    assert torch.allclose(row.shift, torch.full((2,), -1.0), atol=1e-4)


def test_branches_share_their_corrections() -> None:
    fitting = Fitting(Plan({"a": {"trunk": ROW}, "b": {"trunk": ROW}}, codec="value"))
    one, two = noise(6, 1, 20, 2).float(), noise(6, 1, 30, 2, seed=9).float()
    walk(fitting, one, "a")
    walk(fitting, two, "b")
    together = Sums.of(torch.cat([one[0], two[0]], 1), torch.cat([one[1], two[1]], 1), 0)
    expected, _ = together.solve(published=False)
    found = fitting.solve(published=False)[0].table["trunk"][1]
    assert torch.allclose(found.scale, expected.scale)
    assert torch.allclose(found.shift, expected.shift)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan({"a": {"trunk": ROW}, "b": {"trunk": (True,) * 6}}), "shared by all guidance branches"),
        (Plan({"*": {"trunk": ROW}}, predictor="foca"), "reads its own forecasts"),
    ],
)
def test_plans_that_cannot_be_fitted(plan: Plan, says: str) -> None:
    with pytest.raises(DcacheError, match=says):
        Fitting(plan)


def test_nothing_and_nan_are_refused() -> None:
    fitting = Fitting(Plan({"*": {"trunk": ROW}}))
    with pytest.raises(DcacheError, match="nothing to correct"):
        fitting.solve(published=False)
    features = noise(6, 1, 4, 2).float()
    features[4, 0, 0, 1] = float("nan")
    walk(fitting, features)
    with pytest.raises(DcacheError, match="trunk has NaN or infinity in evaluation 4"):
        fitting.solve(published=False)


# On pipelines -------------------------------------------------------------------------------------


def made(site: str, codec: str, component: str = "") -> Schedule:
    row = tuple(t in (0, 3) for t in range(STEPS))
    return Schedule(STEPS, {component: Plan({"*": {site: row}}, codec=codec)}, measured={"psnr": 1.0})


CASES = {
    "pixart": (PIXART, "trunk", "delta", 16, -1),
    "flux": (FLUX, "trunk", "value", 16, -1),
    "flux-model": (FLUX, "model", "delta", 64, -1),
    "sd": (SD, "bracket:0", "value", 8, 1),
    "wan": (WAN, "model", "delta", 4, 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:corrections of:dcache.errors.DcacheWarning")
def test_on_every_shape_predictions_come_nearer_to_what_was_computed(name: str) -> None:
    shape, site, codec, channels, dim = CASES[name]
    subject = shaped(shape)
    plain = subject(["1", "2"], [0, 1])
    schedule = made(site, codec, shape.part)
    found, quality = fit_corrections(subject, schedule, ["1", "2", "3"], batch_size=2)
    (plan,) = found.components.values()
    rows = plan.corrections.table[site]
    assert {t: row.anchor for t, row in rows.items()} == {t: 3 if t > 3 else 0 for t in (1, 2, 4, 5, 6)}
    assert (plan.corrections.channels(site), plan.corrections.dims) == (channels, {site: dim})
    assert quality[site].before < quality[site].after <= 1.0
    assert found.measured == {}
    # Nothing is left behind, and the schedule runs.
    assert (subject(["1", "2"], [0, 1]) == plain).all()
    with dcache.enabled(subject.pipe, found):
        subject(["1"], [0])
        assert dcache.stats(subject.pipe).predicted
        assert dcache.trace(subject.pipe).components[shape.part].corrections == plan.corrections


APART = {"weights": {"*": {"2": {"0": -0.5, "1": 1.5}}}, "apart": {"*": {"2": {"0": 0.25, "1": 0.75}}}}


@pytest.mark.parametrize(
    ("computed", "first", "plan"),
    [
        ((0, 3), 1, {"codec": "delta"}),
        ((0, 1, 3), 2, {"predictor": "newton", "parameters": {"order": 1}, "clock": "logsnr"}),
        ((0, 1, 3), 2, {"predictor": "fitted", "parameters": APART, "clock": "step"}),
    ],
    ids=["reuse", "newton", "halves apart"],
)
def test_the_engine_predicts_what_was_fitted(
    computed: tuple[int, ...], first: int, plan: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first prediction after true anchors the engine's own is what the sums were made of."""
    subject = shaped(PIXART)
    row = tuple(t in computed for t in range(STEPS))
    schedule = Schedule(STEPS, {"transformer": Plan({"*": {"trunk": row}}, **plan)})
    seen: list[Any] = []
    real = Sums.of

    def kept(p: torch.Tensor, y: torch.Tensor, anchor: int) -> Sums:
        seen.append((p.clone(), y.clone()))
        return real(p, y, anchor)

    monkeypatch.setattr(Sums, "of", staticmethod(kept))
    found, _ = fit_corrections(subject, schedule, ["1"])
    row = found.components["transformer"].corrections.table["trunk"][first]
    outputs: list[torch.Tensor] = []
    block = subject.pipe.transformer.norm_out
    handle = block.register_forward_pre_hook(lambda _m, args: outputs.append(args[0].clone()))
    with dcache.enabled(subject.pipe, found):
        subject(["1"], [0])
    handle.remove()
    expected = row.scale * seen[0][0] + row.shift
    assert any(torch.allclose(output, expected, atol=1e-5) for output in outputs)


def test_it_is_fitted_on_the_schedules_own_noise_levels() -> None:
    subject = shaped(WAN, "off", "flow_euler")
    plain = made("trunk", "delta", "transformer")
    levels = tuple(1 - i / STEPS for i in range(STEPS + 1))
    sampler = subject.pipe.scheduler
    seen: list[list[float]] = []
    handle = subject.pipe.transformer.register_forward_pre_hook(
        lambda *_: seen.append(sampler.sigmas.tolist())
    )
    subject(["1"], [0])
    own = seen[0]
    changed = replace(plain, sigmas=(own[0], *(s**2 for s in levels[1:])))
    found, _ = fit_corrections(subject, changed, ["1"])
    handle.remove()
    assert seen[-1] == pytest.approx(changed.sigmas, abs=1e-6)
    assert seen[-1] != own
    assert sampler.sigmas.tolist() == own
    assert found.sigmas == changed.sigmas
    straight, _ = fit_corrections(subject, plain, ["1"])
    assert found.components["transformer"].corrections != straight.components["transformer"].corrections


def test_a_poor_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of noise nothing can be predicted.
    fitting = Fitting(Plan({"*": {"trunk": ROW}}, codec="value"))
    walk(fitting, noise(6, 1, 400, 2).float())
    _, quality = fitting.solve(published=False)
    assert quality["trunk"].before < 0 < quality["trunk"].after < 0.05
    monkeypatch.setattr("dcache.search.corrections.POOR", 1.0)
    with pytest.warns(DcacheWarning, match=r"predictions of trunk explain \d+% of the variance"):
        fit_corrections(shaped(PIXART), made("trunk", "value", "transformer"), ["1"])


def test_bad_input() -> None:
    subject = shaped(PIXART)
    schedule = made("trunk", "delta", "transformer")
    with pytest.raises(DcacheError, match="at least one prompt to fit corrections"):
        fit_corrections(subject, schedule, [])
    two = replace(schedule, components={**schedule.components, "b": schedule.components["transformer"]})
    with pytest.raises(DcacheError, match="fitted for one denoiser"):
        fit_corrections(subject, two, ["1"])
    with pytest.raises(DcacheError, match="is for 9 evaluations"):
        fit_corrections(subject, Schedule.of_steps([0, 3], 9), ["1"])
    with pytest.raises(DcacheError, match="component must be one denoiser"):
        fit_corrections(subject, made("trunk", "delta", "unet"), ["1"])
