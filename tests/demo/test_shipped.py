"""The shipped schedules fit the shipped model without a word, and beat the presets that compute as often."""

from pathlib import Path

import pytest

import dcache
from dcache.demo.pictures import demo_captions
from dcache.demo.pipeline import GUIDANCE, STEPS, schedules
from dcache.demo.shipped import shipped_schedules
from dcache.eval.subject import load
from dcache.identity.denoisers import config_digest, denoisers
from dcache.schedule import Schedule
from dcache.search.rendering.render import Renderer

FILES = sorted(schedules().glob("*.json"))


def computes(schedule: Schedule) -> int:
    (plan,) = schedule.components.values()
    return sum(plan.rows["*"]["trunk"])


def test_those_of_these_steps_and_this_guidance_are_found() -> None:
    found = shipped_schedules(schedules(), STEPS, GUIDANCE)
    assert [one.label for one in found] == ["calibrated 2x", "calibrated 3x", "calibrated 4x"]
    methods = [one.method for one in found if isinstance(one.method, Schedule)]
    assert sorted(map(computes, methods), reverse=True) == [computes(one) for one in methods]
    assert shipped_schedules(schedules(), STEPS + 1, GUIDANCE) == []
    assert shipped_schedules(schedules(), STEPS, 2.5) == []
    assert shipped_schedules(Path("nowhere"), STEPS, GUIDANCE) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name.partition(".")[0])
def test_each_is_of_this_model_and_small(path: Path) -> None:
    schedule = Schedule.load(path)
    subject = load("demo", device="cpu")
    ((name, plan),) = schedule.components.items()
    assert plan.config == config_digest(denoisers(subject.pipe)[name])
    assert (schedule.sampler, schedule.steps) == (type(subject.pipe.scheduler).__name__, STEPS)
    assert {"speedup", "psnr", "prompts", "machine", "versions"} <= set(schedule.measured)
    assert path.stat().st_size < 10_000


@pytest.mark.parametrize(
    "guidance",
    [pytest.param(GUIDANCE, id="guided"), pytest.param(1.0, id="plain", marks=pytest.mark.slow)],
)
def test_at_three_times_the_speed_it_beats_what_is_set_by_hand(guidance: float) -> None:
    by_hand = [dcache.methods.interval(interval=4), dcache.methods.newton(interval=4, warmup=1, last=False)]
    subject = load("demo", device="cpu", guidance=guidance)
    held_out = Renderer(subject, [caption.text for caption in demo_captions(4)], seed=50)
    (shipped,) = (one for one in shipped_schedules(schedules(), STEPS, guidance) if "3x" in one.label)
    assert isinstance(shipped.method, Schedule)
    # Warnings are errors here: it fits this pipeline.
    calibrated = held_out.quality(shipped.method)
    for method in by_hand:
        with dcache.enabled(subject.pipe, method):
            subject(["a red circle"], [0])
            assert dcache.stats(subject.pipe).computed >= computes(shipped.method)
        assert calibrated > held_out.quality(method) + 2.0
