"""Evaluations are counted by the timestep, for any number of guidance branches; a call ends on request."""

from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache.eval.entries import UNCACHED, run_once
from dcache.eval.specs import parse
from dcache.eval.studio.watch import StoppedError, Watch, Watched
from dcache.eval.subject import Subject, load


class Denoiser(nn.Module):
    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return x - timestep


class Pipe:
    """Calls its denoiser twice in each of its steps, the second time with a timestep of its own memory."""

    def __init__(self) -> None:
        self.transformer = Denoiser()
        self.components = {"transformer": self.transformer}

    def __call__(self, prompt: Any, num_inference_steps: int = 3, **_: Any) -> Any:
        for t in torch.arange(num_inference_steps, 0, -1):
            for time in (t, t.clone()):
                self.transformer(torch.zeros(1), timestep=time)


def silent(*_: Any) -> None:
    """Report nothing."""


def test_two_branches_of_a_step_are_one_evaluation() -> None:
    pipe, seen = Pipe(), list[tuple[str, str, int, int]]()
    watch = Watch(lambda *what: seen.append(what))
    watch.begin("uncached", "timed", 2)
    with Watched.of(UNCACHED, watch).enabled(pipe):
        pipe("x")
    # One evaluation more than was expected.
    assert [(done, total) for _, _, done, total in seen] == [(0, 2), (1, 2), (2, 2), (3, 3)]
    pipe("x")
    assert len(seen) == 4
    assert not pipe.transformer._forward_pre_hooks


def test_a_timestep_that_is_changed_in_place_is_another_one_and_so_is_an_unknown_one() -> None:
    watch, time = Watch(silent), torch.tensor([9.0])
    watch.begin("uncached", "timed", 2)
    for value in (9.0, 9.0, 8.0):
        watch.called(time.fill_(value))
    assert watch.done == 2
    watch.called(None)
    watch.called(None)
    assert watch.done == 4


def test_a_call_ends_before_its_next_evaluation() -> None:
    pipe = Pipe()
    watch = Watch(lambda _side, _phase, done, _total: watch.stop.set() if done == 2 else None)
    watch.begin("uncached", "timed", 3)
    with pytest.raises(StoppedError), Watched.of(UNCACHED, watch).enabled(pipe):
        pipe("x")
    assert watch.done == 2
    assert not pipe.transformer._forward_pre_hooks
    with pytest.raises(StoppedError):
        watch.begin("cached", "timed", 3)


@pytest.fixture(scope="module")
def video() -> Subject:
    return load("demo-video", device="cpu", steps=4)


def test_a_clips_two_calls_a_step_are_one_evaluation_with_the_reasons_of_both(video: Subject) -> None:
    (entry,) = parse("interval:interval=2")
    watch = Watch(silent)
    watch.begin("cached", "timed", 4)
    result = run_once(video, Watched.of(entry, watch), ["a red circle moves to the left"], [0])
    assert watch.done == 4
    assert result.stats is not None
    assert sum(sum(each.values()) for each in watch.reasons) == result.stats.computed
    assert [sorted(each) for each in watch.reasons] == [["warmup"], [], ["interval"], []]
    watch.begin("cached", "timed", 4, counts=False)
    run_once(video, Watched.of(entry, watch), ["a red circle moves to the left"], [0])
    assert watch.reasons == [{}, {}, {}, {}]


def test_a_cached_call_that_was_ended_leaves_the_pipeline_as_it_was(video: Subject) -> None:
    (entry,) = parse("interval:interval=2")
    prompts, seeds = ["a red circle moves to the left"], [0]
    plain = video(prompts, seeds)
    watch = Watch(lambda _side, _phase, done, _total: watch.stop.set() if done == 2 else None)
    watch.begin("cached", "timed", 4)
    with pytest.raises(StoppedError):
        run_once(video, Watched.of(entry, watch), prompts, seeds)
    assert (video(prompts, seeds) == plain).all()
    watch = Watch(silent)
    watch.begin("cached", "timed", 4)
    whole = run_once(video, Watched.of(entry, watch), prompts, seeds)
    with dcache.enabled(video.pipe, "interval", interval=2):
        assert (video(prompts, seeds) == whole.output).all()
