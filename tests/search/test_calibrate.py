"""`dcache calibrate` end to end on the shipped model, and its arithmetic by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import dcache
from dcache.cli import main
from dcache.errors import DcacheError
from dcache.eval.subject import load
from dcache.schedule import Schedule
from dcache.search.calibrate import calibrate, starting_places
from dcache.search.fitting.latency_model import LinearLatency, observe
from dcache.search.rendering.render import Renderer
from tests.pipelines import SHAPES
from tests.search.pipeline_subjects import Shaped


def test_the_pace_is_a_line_between_its_ends() -> None:
    pace = LinearLatency(steps=11, uncached=10.0, fewest=2.0)
    assert (pace.seconds(1), pace.seconds(6), pace.seconds(11)) == (2.0, 6.0, 10.0)
    # 10 / 2.5 = 4 seconds: two, and 0.8 for each of two and a half more.
    assert pace.computes(2.5) == 3
    assert pace.computes(5.0) == 1
    assert pace.computes(1.01) == 10
    for speedup in (1.0, 0.5, 5.01, float("nan")):
        with pytest.raises(DcacheError, match=r"expected a speedup above 1 and at most 5\.00"):
            pace.computes(speedup)


def test_a_schedule_is_found_written_and_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.json"
    short = ["--steps", "6", "--prompts", "demo:3", "--speedup", "1.3", "--budget", "4", "--repeats", "1"]
    assert main(["calibrate", "demo", *short, "--out", str(out)]) == 0
    printed, told = capsys.readouterr()
    schedule = Schedule.load(out)
    (plan,) = schedule.components.values()
    row = plan.rows["*"]["trunk"]
    assert (schedule.steps, plan.predictor, row[0]) == (6, "fitted", True)
    assert 1 <= sum(row) < 6
    assert f"computes {sum(row)} of 6 evaluations" in printed
    assert f"{schedule.measured['psnr']:.1f} dB with fitted weights" in printed
    stages = [line.split(" (")[0] for line in told.splitlines()]
    expected = ["timing", "uncached pictures", "starts", f"{sum(row)} computes", "timing the schedule"]
    assert [stage for stage in dict.fromkeys(stages) if stage in expected] == expected
    subject = load("demo", steps=6, device="cpu")
    with dcache.enabled(subject.pipe, str(out)):
        subject(["a red circle"], [0])
        stats = dcache.stats(subject.pipe)
    assert (stats.computed, stats.predicted) == (sum(row), 6 - sum(row))


def test_what_cannot_be_calibrated_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    subject = load("demo", steps=3, device="cpu")
    with pytest.raises(DcacheError, match=r"prompts must be a list of texts, got one text: write \['abc'\]"):
        calibrate(subject, "abc", 2.0)
    with pytest.raises(DcacheError, match="expected 3 or more prompts, for fitting and for checking, got 2"):
        calibrate(subject, ["a", "b"], 2.0)
    with pytest.raises(DcacheError, match="a speedup above 1 and at most"):
        calibrate(subject, ["a", "b", "c"], 50.0, repeats=1)
    assert main(["calibrate", "somebody/model", "--out", str(tmp_path / "x.json")]) == 2
    assert "somebody/model needs --prompts" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the measured seconds, which decide nothing but how often is computed."""

    def pace(*_: Any) -> LinearLatency:
        return LinearLatency(steps=5, uncached=10.0, fewest=2.0)

    monkeypatch.setattr("dcache.search.calibrate.fit_latency", pace)
    subject = load("demo", steps=5, device="cpu")
    found = [calibrate(subject, ["a red", "a blue", "a green"], 2.0, budget=3, repeats=1) for _ in range(2)]
    assert found[0].schedule.digest() == found[1].schedule.digest()
    assert found[0].expected == found[1].expected == 10.0 / pace().seconds(2)


def known(monkeypatch: pytest.MonkeyPatch, uncached: float = 10.0) -> None:
    """The first of the tests' seconds: two computes of five give twice the speed."""
    monkeypatch.setattr("dcache.search.calibrate.fit_latency", lambda *_: LinearLatency(5, uncached, 2.0))


def test_guidance_in_one_batch_is_seen() -> None:
    for guidance in (1.0, 3.0):
        subject = load("demo", steps=2, device="cpu", guidance=guidance)
        base = observe(subject, "a red circle", 0)
        assert (base.paired, base.steps) == (guidance > 1, 2)
        assert not any(module._forward_pre_hooks for module in subject.denoisers)


@pytest.mark.slow
def test_a_start_gives_its_places_and_competes(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    subject = load("demo", steps=5, device="cpu")
    prompts = ["a red", "a blue", "a green"]
    # Everything computed is the best there can be; whether it is allowed is up to its speed.
    perfect = Schedule.of_steps(range(5), 5, codec="delta", clock="step")
    for speed, expected in ((2.0, "listed"), (1.9, "calibrated")):
        monkeypatch.setattr("dcache.search.calibrate.measured_speedup", lambda *_, speed=speed: speed)
        found = calibrate(subject, prompts, 2.0, budget=1, starts=[perfect])
        assert found.schedule.method == expected
        assert (found.fitted == 100.0) == (expected == "listed")
    late = Schedule.of_steps((0, 4), 5, codec="delta", clock="step")
    assert starting_places([late, perfect], 2, 5) == [(0, 4)]
    assert starting_places([late], 3, 5) == starting_places([late], 2, 6) == []


def test_one_compute_leaves_nothing_to_place_or_to_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    monkeypatch.setattr("dcache.search.calibrate.measured_speedup", lambda *_: 4.0)
    found = calibrate(load("demo", steps=5, device="cpu"), ["a red", "a blue", "a green"], 4.9)
    (plan,) = found.schedule.components.values()
    assert sum(plan.rows["*"]["trunk"]) == 1
    assert found.placed == found.fitted


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(DcacheError, match=r"budget must be a whole number between 1 and .*, got 0"):
        calibrate(load("demo", steps=3, device="cpu"), ["a", "b", "c"], 2.0, budget=0)


class Long(Shaped):
    """Runs of 28 evaluations."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> NDArray[np.float32]:
        made = [
            self.shape.run(
                self.pipe,
                self.guided,
                int(prompt),
                generator=torch.Generator().manual_seed(seed),
                num_inference_steps=28,
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return torch.cat(made).numpy().reshape(len(prompts), 1, -1, 1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.* computes this call of:dcache.DcacheWarning")
def test_a_calibration_is_never_below_a_preset_of_less_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))
    # 0.9 s and 12 of 27 parts of 9.1 s are 4.94 s, one part more is too slow: 13 computes on each branch.
    monkeypatch.setattr("dcache.search.calibrate.fit_latency", lambda *_: LinearLatency(28, 10.0, 0.9))
    monkeypatch.setattr("dcache.search.calibrate.measured_speedup", lambda *_: 2.0)
    shape = SHAPES["flux"]
    found = calibrate(Long(shape.build(), shape=shape, guided="sequential"), ["1", "2", "3"], 2.0, budget=1)
    fresh = Renderer(Long(shape.build(), shape=shape, guided="sequential"), ["1"])
    assert fresh.quality(found.schedule) == pytest.approx(found.fitted)
    for name, options in (("default", {}), ("newton", {"interval": 3}), ("tuned", {"speedup": 2.0})):
        # The first call of `tuned` is observed.
        with dcache.enabled(fresh.subject.pipe, name, **options):
            every = [fresh.subject(["1"], [0]) for _ in range(2)]
            stats = dcache.stats(fresh.subject.pipe)
        assert stats.computed <= 26
        assert found.fitted >= fresh.psnr(every[-1].astype(np.float64))[0] - 1e-9, name
