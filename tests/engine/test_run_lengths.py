"""The length of a run is what was evaluated; several runs of one call are traced together and replay.

Toys answer in whole numbers: uncached 8 (t + 1), and with codec `delta` a prediction is 7 times what was
given to the last computed one more than its own input. The oracle elsewhere is the uncached run.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from dcache.schedule.plan import RunLength
from tests.builders import generator, model, pipeline, sampler
from tests.engine.tiny_models import Countdown, Double, Toy, integers, steps, walk
from tests.pipelines import SHAPES

# Computes the first evaluation and the last one.
ENDS = methods.newton(order=0, interval=99, warmup=1, last=True, codec="delta")
# The same where the length is known; where it is not, the warm-up is a share of it, and all is computed.
SHARES = methods.magcache(ratios=[1.0] * 9, threshold=0.1, retention=0.01, max_run=99, last=True)

LINE = methods.newton(order=1, interval=2, warmup=1, last=False, clock="step", sites="model")


class Staged:
    """A pipeline whose call holds several runs, each of which may leave entries of its table out."""

    def __init__(self, stages: Sequence[int], left_out: int = 0, extra: bool = False) -> None:
        self.denoiser, self.scheduler = Toy(), Countdown()
        self.stages, self.left_out, self.extra = stages, left_out, extra
        self._interrupt = False
        self.stop_at = 99

    def progress_bar(self) -> None:
        """Begins every run."""

    def maybe_free_model_hooks(self) -> None:
        """Ends the call."""

    def __call__(self) -> list[float]:
        outputs, x = [], torch.ones(1, 2, 4)
        for stage in self.stages:
            self.progress_bar()
            self.scheduler.set_timesteps(stage)
            for i, t in enumerate(self.scheduler.timesteps[: stage - self.left_out]):
                if self._interrupt:
                    continue
                outputs += walk(self.denoiser, [t], x)
                self.scheduler.step(outputs[-1], t, x)
                if i == self.stop_at:
                    raise ZeroDivisionError
            if self.extra:
                outputs += walk(self.denoiser, [0.0], x)
        self.maybe_free_model_hooks()
        return [float(output.flatten()[0]) for output in outputs]


class Checked(Staged):
    """The same, and it says when its call begins."""

    def check_inputs(self) -> None:
        """Begins the call."""

    def __call__(self) -> list[float]:
        self.check_inputs()
        return super().__call__()


def row(pipe: Any) -> str:
    """The row of the only site of all branches: C where it was computed."""
    (plan,) = dcache.trace(pipe).components.values()
    (computed,) = plan.rows["*"].values()
    return "".join("-C"[c] for c in computed)


def runs(pipe: Any) -> tuple[RunLength, ...]:
    (plan,) = dcache.trace(pipe).components.values()
    return plan.runs


def test_a_table_that_is_not_walked_to_its_end_is_said_and_known_from_then_on() -> None:
    pipe = dcache.enable(Staged([6], left_out=1), ENDS)
    with pytest.warns(DcacheWarning, match="table listed 6 evaluations and the run had 5: rules that count"):
        assert pipe() == [56, 55, 54, 53, 52]
    assert (dcache.stats(pipe).steps, row(pipe), runs(pipe)) == (5, "C----", (RunLength(5, 6),))
    first = dcache.trace(pipe)
    assert pipe() == [56, 55, 54, 53, 24]
    assert (row(pipe), runs(pipe)) == ("C---C", (RunLength(5, 6),))
    second = dcache.trace(pipe)
    for trace, outputs in ((first, [56, 55, 54, 53, 52]), (second, [56, 55, 54, 53, 24])):
        dcache.enable(pipe, trace)
        assert [pipe(), pipe()] == [outputs, outputs]


def test_a_schedule_of_another_length_is_still_refused_at_the_first_call() -> None:
    pipe = dcache.enable(Staged([6], left_out=1), ENDS)
    with pytest.warns(DcacheWarning, match="table listed 6"):
        pipe()
    trace = dcache.trace(pipe)
    for other in (Staged([7], left_out=1), Staged([4])):
        dcache.enable(other, trace)
        with pytest.raises(DcacheError, match="schedule is for 5 evaluations"):
            other()
        assert other.denoiser.blocks[0].runs == 0


def test_a_cancelled_call_teaches_no_length() -> None:
    pipe = dcache.enable(Staged([6]), ENDS)
    pipe._interrupt = True
    assert pipe() == []
    pipe._interrupt, pipe.stop_at = False, 3
    with pytest.raises(ZeroDivisionError):
        pipe()
    pipe.stop_at = 99
    assert pipe() == [56, 55, 54, 53, 52, 16]
    assert (row(pipe), runs(pipe)) == ("C----C", ())


def test_a_call_behind_the_last_step_is_computed_and_no_evaluation() -> None:
    pipe = dcache.enable(Staged([4], extra=True), ENDS)
    # 8 (0 + 1) at the end.
    assert pipe() == [40, 39, 38, 16, 8]
    stats = dcache.stats(pipe)
    assert (stats.steps, stats.computed, stats.predicted) == (4, 2, 2)
    assert stats.reasons == {"warmup": 1, "last": 1, "after_last": 1}
    assert (row(pipe), runs(pipe)) == ("C--C", ())
    dcache.enable(pipe, dcache.trace(pipe))
    assert pipe() == [40, 39, 38, 16, 8]


@pytest.mark.parametrize("kind", [Staged, Checked])
@pytest.mark.parametrize("extra", [False, True])
def test_the_runs_of_one_call_are_traced_together_and_replay(
    kind: type[Staged], extra: bool, tmp_path: Path
) -> None:
    pipe = dcache.enable(kind([4, 3], extra=extra), ENDS)
    rest = [8] if extra else []
    outputs = [40, 39, 38, 16, *rest, 32, 31, 16, *rest]
    for _ in range(2):
        assert pipe() == outputs
        trace = dcache.trace(pipe)
        assert (trace.steps, row(pipe)) == (7, "C--CC-C")
        assert runs(pipe) == (RunLength(4, 4), RunLength(3, 3))
        # The statistics are of the last run.
        assert dcache.stats(pipe).steps == 3
    again = Schedule.load(trace.save(tmp_path / "runs.json"))
    assert again == trace
    dcache.enable(pipe, again)
    assert pipe() == outputs
    # A call that broke off leaves nothing of its rows to the next one.
    pipe.stop_at = 1
    with pytest.raises(ZeroDivisionError):
        pipe()
    pipe.stop_at = 99
    assert [pipe(), pipe()] == [outputs, outputs]
    assert dcache.trace(pipe).components["denoiser"].rows == trace.components["denoiser"].rows


def test_a_call_of_more_runs_than_were_traced_is_refused() -> None:
    pipe = dcache.enable(Checked([4, 3]), ENDS)
    pipe()
    longer = dcache.enable(Checked([4, 3, 3]), dcache.trace(pipe))
    with pytest.raises(DcacheError, match=r"is for 2 run\(s\) of the denoiser in one call .* this is run 3"):
        longer()


def test_a_pipeline_that_never_says_that_its_call_is_over_has_one_run_a_call() -> None:
    class Endless(Staged):
        maybe_free_model_hooks = None  # type: ignore[assignment]

        def __call__(self) -> list[float]:
            # Only its frame tells a call from the next one: not where that has the same place in memory.
            frames.append(sys._getframe())
            self.maybe_free_model_hooks = lambda: None  # type: ignore[assignment]
            try:
                return super().__call__()
            finally:
                del self.maybe_free_model_hooks

    frames: list[FrameType] = []
    pipe = dcache.enable(Endless([4]), ENDS)
    for _ in range(2):
        assert pipe() == [40, 39, 38, 16]
        assert (row(pipe), runs(pipe)) == ("C--C", ())


def test_denoisers_with_samplers_of_their_own_have_rows_of_their_own_length() -> None:
    class Cascade(Checked):
        """A prior with a sampler of its own, then the decoder."""

        def __init__(self) -> None:
            super().__init__([4])
            self.prior, self.prior_scheduler = Toy(), Countdown()

        def __call__(self) -> list[float]:
            self.prior_scheduler.set_timesteps(6)
            for t in self.prior_scheduler.timesteps:
                (output,) = walk(self.prior, [t])
                self.prior_scheduler.step(output, t, output)
            return super().__call__()

    pipe = dcache.enable(Cascade(), ENDS)
    outputs = pipe()
    assert outputs == [40, 39, 38, 16]
    trace = dcache.trace(pipe)
    assert trace.steps == 6
    assert trace.components["denoiser"].runs == (RunLength(4, 4),)
    assert trace.components["prior"].runs == ()
    assert [dcache.stats(pipe).components[name].steps for name in ("denoiser", "prior")] == [4, 6]
    dcache.enable(pipe, trace)
    assert pipe() == outputs


# Real pipelines --------------------------------------------------------------------------------------

PANORAMA = pipeline("StableDiffusionPanoramaPipeline", "unet", requires_safety_checker=False)


def panorama(width: int, kind: str = "DDIMScheduler", **more: Any) -> tuple[Any, dict[str, Any]]:
    """A pipeline and the arguments of a call of 6 steps over a picture so wide that it has several views."""
    shape = SHAPES["sd"]
    more_of_sampler = {"clip_sample": False} if kind == "DDIMScheduler" else {}
    pipe = PANORAMA(shape.model(0), sampler(kind, steps_offset=1, **more_of_sampler)())
    pipe.set_progress_bar_config(disable=True)
    arguments = shape.arguments("off", height=64, width=width, num_inference_steps=6, **more)
    return pipe, arguments


def picture(pipe: Any, arguments: dict[str, Any]) -> torch.Tensor:
    return pipe(**{**arguments, "generator": generator(3)}).images


@pytest.mark.filterwarnings("ignore:The preprocess method|ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "evaluations"),
    [
        ("DDIMScheduler", 6),
        ("EulerDiscreteScheduler", 6),
        ("PNDMScheduler", 15),
        ("HeunDiscreteScheduler", 11),
    ],
)
def test_the_views_of_a_panorama_are_branches_of_one_evaluation(kind: str, evaluations: int) -> None:
    # Windows of 64 latents in steps of 8.
    views = 9 if kind == "DDIMScheduler" else 2
    pipe, arguments = panorama(8 * (64 + 8 * (views - 1)), kind)
    plain = picture(pipe, arguments)
    dcache.enable(pipe, methods.interval(interval=1))
    assert torch.equal(picture(pipe, arguments), plain)
    dcache.enable(pipe, LINE)
    first = picture(pipe, arguments)
    stats = dcache.stats(pipe)
    computed = -(-evaluations // 2)
    assert stats.steps == evaluations
    assert (stats.computed, stats.predicted) == (views * computed, views * (evaluations - computed))
    (plan,) = dcache.trace(pipe).components.values()
    assert plan.rows == {"*": {"model": tuple(i % 2 == 0 for i in range(evaluations))}}
    dcache.enable(pipe, dcache.trace(pipe))
    assert torch.equal(picture(pipe, arguments), first)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_resampling_counts_what_is_evaluated() -> None:
    unet = model(
        "UNet2DModel",
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    pipe = pipeline("RePaintPipeline", "unet")(unet(0), sampler("RePaintScheduler")())
    pipe.set_progress_bar_config(disable=True)
    image, mask = torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8)

    def run() -> Any:
        return torch.from_numpy(
            pipe(
                image=image,
                mask_image=mask,
                num_inference_steps=6,
                jump_length=2,
                jump_n_sample=2,
                generator=generator(1),
                output_type="np",
            ).images
        )

    plain = run()
    dcache.enable(pipe, methods.interval(interval=1))
    assert torch.equal(run(), plain)
    dcache.enable(pipe, methods.interval(interval=99, last=True))
    first = run()
    # The table of 14 entries has 10 on the way down (`tests/identity/test_timetable.py`).
    stats = dcache.stats(pipe)
    assert (stats.steps, stats.computed, stats.predicted) == (10, 2, 8)
    assert stats.reasons["last"] == 1
    assert torch.equal(run(), first)
    dcache.enable(pipe, dcache.trace(pipe))
    assert torch.equal(run(), first)


def test_a_call_that_goes_on_with_a_copy_of_its_sampler_is_traced_as_two_runs_and_replays() -> None:
    class Parts(Checked):
        """As Text2Video-Zero: evaluations for one frame, then for all from an earlier entry on."""

        def __call__(self) -> list[float]:
            self.check_inputs()
            self.progress_bar()
            self.scheduler.set_timesteps(6)
            outputs: list[torch.Tensor] = []
            for part, frames in ((slice(0, 3), 1), (slice(1, 6), 2)):
                x = torch.ones(frames, 2, 4)
                for t in self.scheduler.timesteps[part]:
                    outputs += walk(self.denoiser, [t], x)
                    self.scheduler.step(outputs[-1], t, x)
                self.scheduler = copy.deepcopy(self.scheduler)
            self.maybe_free_model_hooks()
            return [float(output.flatten()[0]) for output in outputs]

    pipe = dcache.enable(Parts([]), methods.interval(interval=3, codec="value"))
    outputs = pipe()
    # 8 (t + 1) at t = 6, 5, 4 and at 5, 4, 3, 2, 1; computed at 0, 3, ... of both runs.
    assert outputs == [56, 56, 56, 48, 48, 48, 24, 24]
    assert row(pipe) == "C--C--C-"
    dcache.enable(pipe, dcache.trace(pipe))
    assert pipe() == outputs


# Hand-written loops: nothing lists the evaluations -----------------------------------------------------


def down(steps: int, last: float = 1.0) -> list[float]:
    """Timesteps of a loop of so many evaluations."""
    return [last + k for k in reversed(range(steps))]


@contextmanager
def said(*texts: str) -> Iterator[None]:
    """Exactly these warnings are given, in this order."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        yield
    assert len(seen) == len(texts), [str(w.message) for w in seen]
    for warning, text in zip(seen, texts, strict=True):
        assert text in str(warning.message)


def test_a_share_of_a_run_of_unknown_length_computes_it_and_is_applied_to_the_next() -> None:
    model = Toy([Double(1.0) for _ in range(4)])
    method = methods.delta_dit(interval=2, blocks=3, boundary=0.5)
    dcache.enable(model, method)
    with said("delta_dit(interval=2, blocks=3, boundary=0.5) depends on the number of evaluations"):
        walk(model, down(8))
    stats = dcache.stats(model)
    # Three atoms: the front block, the two in the middle, the rear one. Evaluations 0, 2, 4 and 6 are
    # computed whatever the length is.
    assert (stats.computed, stats.predicted) == (24, 0)
    assert stats.reasons == {"warmup": 3, "interval": 9, "length": 12}
    assert "12 x the number of evaluations of the run was not known" in stats.why_nothing()
    with said("had 8 evaluations, which nothing said beforehand: 12 site events were computed"):
        walk(model, down(8))
    for _ in range(2):
        (plan,) = dcache.trace(model).components.values()
        rows = {site: [i for i, c in enumerate(row) if c] for site, row in plan.rows["*"].items()}
        # The same method with the boundary at evaluation 4.
        assert rows["block:0"] == [0, 1, 2, 3, 4, 6]
        assert rows["run:1-2"] == [0, 2, 4, 6]
        assert rows["block:3"] == [0, 2, 4, 5, 6, 7]
        with said():
            walk(model, down(8))


def test_for_the_last_evaluation_alone_no_length_is_learned() -> None:
    model = dcache.enable(Toy(), ENDS)
    for _ in range(3):
        with said():
            # 8 (5 + 1), then 7 times 6 and the own input.
            assert integers(walk(model, down(5))) == [48, 47, 46, 45, 44]


def test_the_last_evaluation_is_known_once_the_length_is_learned() -> None:
    model = dcache.enable(Toy(), SHARES)
    with said("depends on the number of evaluations"):
        assert integers(walk(model, down(5))) == [48, 40, 32, 24, 16]
    with said("had 5 evaluations, which nothing said beforehand: 5 site events were computed"):
        assert integers(walk(model, down(5))) == [48, 47, 46, 45, 16]
    with said():
        assert integers(walk(model, down(5))) == [48, 47, 46, 45, 16]
    assert row(model) == "C---C"


def test_a_loop_that_is_broken_off_is_no_shorter_one_and_a_longer_one_goes_on() -> None:
    model = dcache.enable(Toy(), SHARES)
    times = down(6)
    with said("depends on the number of evaluations", "had 3 evaluations"):
        walk(model, times[:3])
        # Taken for three: the third is computed; how many follow is unknown again.
        assert integers(walk(model, times)) == [56, 55, 40, 32, 24, 16]
    with said("had 6 evaluations"):
        assert integers(walk(model, times)) == [56, 55, 54, 53, 52, 16]
    walk(model, times[:2])
    assert integers(walk(model, times)) == [56, 55, 54, 53, 52, 16]


def test_loops_of_other_timesteps_have_lengths_of_their_own() -> None:
    model = dcache.enable(Toy(), SHARES)
    short, long = [9.0, 5.0, 1.0], [9.0, 7.0, 5.0, 3.0, 1.0]
    with said("depends on the number of evaluations", "had 3 evaluations", "had 5 evaluations"):
        walk(model, short)
        # Not the same from the second timestep on.
        assert integers(walk(model, long)) == [80, 64, 48, 32, 16]
        walk(model, short)
    for times, last in ((short, 16), (long, 16)) * 2:
        outputs = integers(walk(model, times))
        assert outputs[:-1] == [80.0, *(70 + t + 1 for t in times[1:-1])]
        assert outputs[-1] == last


def test_announced_evaluations_without_timesteps_have_the_length_of_the_newest_run() -> None:
    model = dcache.enable(Toy(), SHARES)
    with said("depends on the number of evaluations", "had 5 evaluations", "had 4 evaluations"):
        steps(model, down(5))
        assert row(model) == "CCCCC"
        steps(model, down(5))
        assert row(model) == "C---C"
        steps(model, down(4))
        assert row(model) == "C---"
        steps(model, down(4))
    assert row(model) == "C--C"


def test_what_the_loop_says_is_believed() -> None:
    model = dcache.enable(Toy(), methods.magcache(ratios=[1.0] * 6, threshold=0.1, retention=0.5, max_run=9))
    for _ in range(2):
        with said():
            for i, time in enumerate(down(6)):
                dcache.step(model, i, steps=6)
                walk(model, [time])
        # Half of six.
        assert row(model) == "CCC---"
        assert dcache.stats(model).reasons == {"warmup": 3}


class Parallel(Staged):
    """Steps several evaluations at once, by a method of its own, as ParaDiGMS does."""

    def __call__(self) -> list[float]:
        self.progress_bar()
        self.scheduler.set_timesteps(6)
        outputs = [walk(self.denoiser, [t], torch.ones(1, 2, 4))[0] for t in self.scheduler.timesteps]
        self.maybe_free_model_hooks()
        return integers(outputs)


def test_a_sampler_that_never_steps_is_said_and_the_trace_replays() -> None:
    pipe = Parallel([6])
    dcache.enable(pipe, ENDS)
    with pytest.warns(DcacheWarning) as caught:
        first = pipe()
    assert [str(w.message).partition("`step` of its Countdown was not called")[1] for w in caught] != [""]
    assert len(caught) == 1
    # 8 (1 + t), as uncached.
    assert first == pipe() == [56, 48, 40, 32, 24, 16]
    assert dcache.stats(pipe).predicted == 0
    dcache.enable(pipe, dcache.trace(pipe))
    assert pipe() == first


class Iterating(Staged):
    """Its loop goes through what `progress_bar` makes of the entries of its table, as many loops do."""

    def progress_bar(self, iterable: Any = None) -> Any:
        """Begins every run."""
        return iterable

    def __call__(self) -> list[float]:
        outputs, x = [], torch.ones(1, 2, 4)
        for stage in self.stages:
            self.scheduler.set_timesteps(stage)
            for t in self.progress_bar(self.scheduler.timesteps[: stage - self.left_out]):
                outputs += walk(self.denoiser, [t], x)
                self.advance(outputs[-1], t, x)
        self.maybe_free_model_hooks()
        return [float(output.flatten()[0]) for output in outputs]

    def advance(self, output: Any, t: Any, x: Any) -> None:
        """Ends an evaluation."""
        self.scheduler.step(output, t, x)


def test_the_entries_that_a_loop_goes_through_are_its_length_from_the_first_call_on() -> None:
    pipe = dcache.enable(Iterating([6, 4], left_out=1), ENDS)
    expected = [56, 55, 54, 53, 24, 40, 39, 24]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DcacheWarning)
        assert [pipe(), pipe()] == [expected, expected]
        trace = dcache.trace(pipe)
        assert (row(pipe), runs(pipe)) == ("C---CC-C", (RunLength(5, 6), RunLength(3, 4)))
        dcache.enable(pipe, trace)
        assert [pipe(), pipe()] == [expected, expected]


class Unstepped(Iterating):
    """Nothing ends its evaluations or its call (samplers of score-based models)."""

    def maybe_free_model_hooks(self) -> None:
        """Ends the call."""

    def advance(self, output: Any, t: Any, x: Any) -> None:
        """Without `step`."""


def test_where_nothing_steps_the_end_of_the_loop_says_that_nothing_was_predicted() -> None:
    pipe = dcache.enable(Unstepped([3]), ENDS)
    vars(pipe)["maybe_free_model_hooks"] = lambda: None
    with pytest.warns(DcacheWarning, match="`step` of its Countdown was not called, so its 3 calls count as"):
        assert pipe() == [32, 24, 16]
    assert dcache.stats(pipe).bytes_now == 0


class Modular(Staged):
    """As modular pipelines are: nothing but an object of its own tells a call from the next one."""

    maybe_free_model_hooks = None  # type: ignore[assignment]

    def register_components(self, **components: Any) -> None:
        """Swaps components."""

    def __call__(self) -> list[float]:
        state = type("State", (), {})()
        state.outputs = list[float]()
        for stage in self.stages:
            self.run_stage(state, stage)
        return state.outputs

    def run_stage(self, state: Any, stage: int) -> None:
        x = torch.ones(1, 2, 4)
        self.scheduler.set_timesteps(stage)
        for i, t in enumerate(self.scheduler.timesteps):
            (output,) = walk(self.denoiser, [t], x)
            self.scheduler.step(output, t, x)
            state.outputs.append(float(output.flatten()[0]))
            if i == self.stop_at:
                raise ZeroDivisionError


def test_the_runs_of_a_modular_pipelines_call_are_traced_together() -> None:
    pipe = dcache.enable(Modular([5, 4]), ENDS)
    expected = [48, 47, 46, 45, 16, 40, 39, 38, 16]
    for _ in range(2):
        assert pipe() == expected
        assert (row(pipe), runs(pipe)) == ("C---CC--C", (RunLength(5, 5), RunLength(4, 4)))
    trace = dcache.trace(pipe)
    dcache.enable(pipe, trace)
    assert [pipe(), pipe()] == [expected, expected]
    # One that breaks off in its first run begins the table anew with the next call.
    pipe.stop_at = 2
    with pytest.raises(ZeroDivisionError):
        pipe()
    pipe.stop_at = 99
    assert [pipe(), pipe()] == [expected, expected]
