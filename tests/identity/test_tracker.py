"""Which run a denoiser call belongs to: `dcache.step` comes first, then samplers, then a loop's timesteps."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

import dcache
from dcache import DcacheError, methods
from tests.engine.tiny_models import Double, Toy

EVERY_2 = methods.interval(interval=2)


class Pipe:
    """A pipeline's loop around a toy; the denoiser's own timestep may say nothing."""

    def __init__(self, sampler: Any, denoiser: Any = None, telling: bool = True) -> None:
        self.transformer, self.scheduler = denoiser or Toy(), sampler
        self.telling = telling

    def progress_bar(self) -> None:
        """Begins the call."""

    def maybe_free_model_hooks(self) -> None:
        """Ends it."""

    def __call__(self, steps: int = 4, begin: int = 0, calls: int = 1) -> None:
        self.progress_bar()
        self.scheduler.set_timesteps(steps)
        if begin:
            self.scheduler.set_begin_index(begin)
        scaled = getattr(self.scheduler, "scale_model_input", lambda x, t: x)
        x = torch.zeros(1, 2, 4)
        with torch.no_grad():
            for t in self.scheduler.timesteps[begin:]:
                for _ in range(calls):
                    out = self.transformer(scaled(x, t), t if self.telling else 0)
                x = self.scheduler.step(out, t, x).prev_sample
        self.maybe_free_model_hooks()


def row(target: Any) -> str:
    """The row of the only site: 1 where it was computed."""
    (plan,) = dcache.trace(target).components.values()
    (sites,) = plan.rows.values()
    return "".join("01"[c] for c in sites["trunk"])


@pytest.mark.parametrize("calls", [1, 2])
def test_a_sampler_tells_evaluations_whose_timesteps_say_nothing(calls: int) -> None:
    pipe = dcache.enable(Pipe(EulerDiscreteScheduler(), telling=False), EVERY_2)
    pipe(calls=calls)
    trace = dcache.trace(pipe)
    assert (trace.steps, trace.sampler) == (4, "EulerDiscreteScheduler")
    assert row(pipe) == "1010"
    assert dcache.stats(pipe).computed == 2 * calls


def test_a_replaced_sampler_is_followed_and_the_old_one_is_left_as_it_was() -> None:
    old = EulerDiscreteScheduler()
    pipe = dcache.enable(Pipe(old), EVERY_2)
    pipe()
    assert "step" in vars(old)
    pipe.scheduler = DDIMScheduler()
    pipe(6)
    trace = dcache.trace(pipe)
    assert (trace.steps, trace.sampler) == (6, "DDIMScheduler")
    assert row(pipe) == "101010"
    assert not {"step", "set_timesteps"} & set(vars(old))


def test_of_two_pipelines_around_one_denoiser_the_one_that_is_run_counts() -> None:
    one = dcache.enable(Pipe(EulerDiscreteScheduler()), EVERY_2)
    one(4)
    other = dcache.enable(Pipe(DDIMScheduler(), one.transformer), EVERY_2)
    other(5)
    assert (dcache.trace(other).sampler, row(other)) == ("DDIMScheduler", "10101")
    one(3)
    assert (dcache.trace(one).sampler, row(one)) == ("EulerDiscreteScheduler", "101")
    other(5)
    assert (dcache.trace(other).sampler, row(other)) == ("DDIMScheduler", "10101")


def test_of_two_runs_under_way_the_one_whose_sampler_moved_last_counts() -> None:
    """Neither pipeline says that its call is over."""
    one = dcache.enable(Pipe(EulerDiscreteScheduler()), EVERY_2)
    other = dcache.enable(Pipe(DDIMScheduler(), one.transformer), EVERY_2)
    one.progress_bar()
    x = torch.zeros(1, 2, 4)
    for pipe, steps in ((one, 5), (other, 3), (one, 4)):
        pipe.scheduler.set_timesteps(steps)
        with torch.no_grad():
            for t in pipe.scheduler.timesteps[:2]:
                out = pipe.transformer(pipe.scheduler.scale_model_input(x, t), t)
                pipe.scheduler.step(out, t, x)
        assert dcache.trace(pipe).sampler == type(pipe.scheduler).__name__
        assert row(pipe) == "10"


def test_a_run_that_begins_late_has_as_many_evaluations_as_are_left() -> None:
    pipe = dcache.enable(Pipe(FlowMatchEulerDiscreteScheduler()), methods.interval(interval=9, last=True))
    pipe(6, begin=2)
    # The last one is known although the tables are of six.
    assert row(pipe) == "1001"


def test_without_a_sampler_the_loops_timesteps_tell() -> None:
    toy = dcache.enable(Toy(), EVERY_2)
    with torch.no_grad():
        for t in (9.0, 7.0, 5.0, 9.0, 7.0):
            toy(torch.ones(1, 2, 4), t)
    # The second run has come to its second evaluation.
    assert (dcache.stats(toy).steps, row(toy), dcache.trace(toy).sampler) == (2, "10", "")


def test_what_step_says_comes_before_a_sampler() -> None:
    pipe = dcache.enable(Pipe(EulerDiscreteScheduler()), EVERY_2)
    pipe.scheduler.set_timesteps(4)
    x = torch.zeros(1, 2, 4)
    with torch.no_grad():
        for i in range(3):
            dcache.step(pipe, i, steps=3)
            # The sampler does not step, so that to it this is one evaluation.
            pipe.transformer(x, 0)
    assert dcache.stats(pipe).steps == 3
    assert row(pipe) == "101"


def test_where_nothing_tells_the_error_says_what_to_call() -> None:
    class Timeless(Toy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks[0](x)

    module = dcache.enable(Timeless([Double()]), methods.interval(interval=2, sites="model"))
    with (
        torch.no_grad(),
        pytest.raises(DcacheError, match=r"cannot tell which evaluation .* dcache\.step\(module, index="),
    ):
        module(torch.ones(1, 2))
