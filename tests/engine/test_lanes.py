"""Threads: pipes that share a denoiser run as they do alone; one pipe in two is refused in the second."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning, methods
from tests.engine.tiny_models import Toy
from tests.pipelines import FLUX, PIXART, Shape, at_step_end

TRIES = 13
METHODS: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "interval": lambda: methods.interval(interval=3),
    "taylorseer": lambda: methods.taylorseer(interval=3),
    "fbcache": lambda: methods.fbcache(threshold=0.3),
}


def together(*acts: Callable[[], Any]) -> list[Any]:
    """What some functions return or raise that run at the same time, each in a thread of its own."""
    start, results = threading.Barrier(len(acts)), [None] * len(acts)

    def run(i: int) -> None:
        start.wait(timeout=60)
        try:
            results[i] = acts[i]()
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return results


@pytest.mark.parametrize("shape", [PIXART, FLUX], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_two_pipes_with_one_denoiser_in_two_threads(shape: Shape, name: str) -> None:
    first = shape.build()
    second = shape.build(model=shape.denoiser(first))
    for pipe in (first, second):
        dcache.enable(pipe, METHODS[name]())
    alone = [shape.run(pipe, seed=seed) for seed, pipe in enumerate((first, second))]
    for _ in range(TRIES):
        outputs = together(lambda: shape.run(first, seed=0), lambda: shape.run(second, seed=1))
        assert all(torch.equal(a, b) for a, b in zip(outputs, alone, strict=True))


@pytest.mark.parametrize("name", ["newton", "interval", "fbcache"])
def test_a_pipe_that_was_not_enabled_itself_has_runs_of_its_own_in_its_thread(name: str) -> None:
    first = FLUX.build()
    second = FLUX.build(model=FLUX.denoiser(first))
    preset = {**METHODS, "newton": lambda: methods.newton(interval=3, order=1, last=True)}[name]
    dcache.enable(first, preset())
    alone = [FLUX.run(pipe, seed=seed) for seed, pipe in enumerate((first, second))]
    fresh = dcache.enable(FLUX.build(), preset())
    assert torch.equal(alone[1], FLUX.run(fresh, seed=1))
    for _ in range(TRIES):
        outputs = together(lambda: FLUX.run(first, seed=0), lambda: FLUX.run(second, seed=1))
        assert all(torch.equal(a, b) for a, b in zip(outputs, alone, strict=True)), outputs
    assert dcache.stats(first).reasons == dcache.stats(fresh).reasons


def test_a_denoiser_in_hand_written_loops_of_two_threads() -> None:
    toy = dcache.enable(Toy(), methods.interval(interval=2, sites="model"))

    def loop(value: float) -> list[int]:
        with torch.no_grad():
            return [int(toy(torch.full((1, 2, 4), value), 4.0 - i)[0, 0, 0]) for i in range(4)]

    # ((x + t) * 8 in computed calls; a predicted one repeats the last.
    assert [loop(1.0), loop(2.0)] == [[40, 40, 24, 24], [48, 48, 32, 32]]
    for _ in range(TRIES):
        assert together(lambda: loop(1.0), lambda: loop(2.0)) == [[40, 40, 24, 24], [48, 48, 32, 32]]


@pytest.mark.parametrize("whole", [True, False], ids=["pipe", "denoiser alone"])
def test_one_pipe_in_two_threads_is_refused_in_the_second_and_goes_on_in_the_first(whole: bool) -> None:
    pipe = PIXART.build()
    dcache.enable(pipe if whole else PIXART.denoiser(pipe), "interval", interval=3)
    alone = PIXART.run(pipe)
    inside, refused = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def second() -> None:
        inside.wait(timeout=60)
        try:
            PIXART.run(pipe, seed=2)
        except DcacheError as error:
            errors.append(error)
        finally:
            refused.set()

    def pause(step: int) -> None:
        if step == 2:
            inside.set()
            assert refused.wait(timeout=60)

    thread = threading.Thread(target=second)
    thread.start()
    output = PIXART.run(pipe, **at_step_end(PIXART, pause))
    thread.join(timeout=60)
    assert len(errors) == 1
    assert "another thread" in str(errors[0])
    assert torch.equal(output, alone)
    # It is free again, in any thread.
    (later,) = together(lambda: PIXART.run(pipe))
    assert torch.equal(later, alone)


def test_of_two_threads_that_begin_at_once_one_is_refused() -> None:
    pipe = PIXART.build()
    inside, go_on = threading.Event(), threading.Event()

    class Slow(type(pipe.scheduler)):  # type: ignore[misc]
        def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
            super().set_timesteps(*args, **kwargs)
            inside.set()
            go_on.wait(timeout=60)

    pipe.scheduler = Slow.from_config(pipe.scheduler.config)
    dcache.enable(pipe, "interval", interval=3)

    def second() -> Any:
        inside.wait(timeout=60)
        try:
            return PIXART.run(pipe, seed=2)
        finally:
            go_on.set()

    picture, error = together(lambda: PIXART.run(pipe), second)
    assert isinstance(error, DcacheError)
    assert "another thread" in str(error)
    assert torch.equal(picture, PIXART.run(pipe))


@pytest.mark.parametrize("whole", [True, False], ids=["pipe", "denoiser alone"])
def test_a_run_that_broke_off_in_a_thread_does_not_lock_the_pipe(whole: bool) -> None:
    pipe = PIXART.build()
    dcache.enable(pipe if whole else PIXART.denoiser(pipe), "interval", interval=3)
    alone = PIXART.run(pipe)

    def broken(step: int) -> None:
        if step == 2:
            raise KeyError(step)

    (error,) = together(lambda: PIXART.run(pipe, **at_step_end(PIXART, broken)))
    assert isinstance(error, KeyError)
    assert torch.equal(PIXART.run(pipe), alone)


def test_a_run_behind_its_last_step_does_not_lock_the_sampler() -> None:
    # The code of this function looks like a loop: it has the sampler, and names its `step`.
    pipe = dcache.enable(PIXART.build(), "interval", interval=3)
    alone = PIXART.run(pipe)
    # A pipeline that dcache was not told of, so that nothing says when its call is over.
    other = PIXART.build(model=PIXART.denoiser(pipe))
    other.scheduler = pipe.scheduler
    assert callable(pipe.scheduler.step)
    PIXART.run(other)
    (later,) = together(lambda: PIXART.run(pipe))
    assert torch.equal(later, alone)


def test_statistics_are_those_of_the_own_thread_or_else_of_the_newest_run() -> None:
    pipe = dcache.enable(PIXART.build(), "interval", interval=3)
    (stats,) = together(lambda: (PIXART.run(pipe), dcache.stats(pipe))[1])
    assert (stats.steps, stats.predicted) == (7, 4)
    # This thread ran nothing: it sees the newest run.
    assert dcache.stats(pipe).predicted == 4
    assert dcache.trace(pipe).steps == 7
    dcache.disable(pipe)


def test_what_a_thread_remembered_is_freed_with_its_run() -> None:
    first = PIXART.build()
    second = PIXART.build(model=PIXART.denoiser(first))
    for pipe in (first, second):
        dcache.enable(pipe, "interval", interval=3)
    together(lambda: PIXART.run(first), lambda: PIXART.run(second))
    assert dcache.stats(first).bytes_now == 0
    dcache.disable(first)
    dcache.disable(second)
    assert "_compiled_call_impl" not in vars(PIXART.denoiser(first))


def test_enabling_in_one_thread_while_another_runs_the_shared_denoiser_raises_nothing() -> None:
    first = PIXART.build()
    second = PIXART.build(model=PIXART.denoiser(first))
    dcache.enable(first, "interval", interval=3)
    dcache.enable(second, "interval", interval=3)
    alone = PIXART.run(second, seed=1)

    def enable_and_run() -> torch.Tensor:
        dcache.enable(second, "interval", interval=3)
        return PIXART.run(second, seed=1)

    for _ in range(TRIES):
        outputs = together(lambda: PIXART.run(first, seed=0), enable_and_run)
        # A run whose method is replaced near its end may warn that it predicted nothing.
        said = [output for output in outputs if isinstance(output, Exception)]
        assert [error for error in said if not isinstance(error, DcacheWarning)] == []
        if isinstance(outputs[1], torch.Tensor):
            assert torch.equal(outputs[1], alone)
