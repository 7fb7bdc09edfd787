"""The state of one run: evaluations, bytes held, and what is left of it once it is over."""

import torch

from dcache.cache.history import Branch
from dcache.engine.run_state import RunState
from dcache.identity.run import Run
from dcache.probes import SinceCompute


def holding(**sizes: int) -> RunState:
    """A run with one anchor of so many floats on each of its branches."""
    state = RunState(Run())
    for name, size in sizes.items():
        branch = state.branches[name] = Branch(name, 2)
        branch.history("trunk").push(0, 0.0, (torch.zeros(size),))
    return state


def test_an_evaluation_counts_from_its_first_call_on() -> None:
    run = Run()
    state = RunState(run)
    assert state.steps == 0
    run.calls = 1
    assert state.steps == 1
    # The sampler's step ends an evaluation.
    run.calls, run.index = 0, 1
    assert state.steps == 1
    run.calls = 2
    assert state.steps == 2


def test_bytes_are_those_of_every_storage_once() -> None:
    state = holding(a=8, b=4)
    assert state.bytes_now() == 12 * 4
    shared = torch.zeros(100)
    state.branches["a"].history("model").push(0, 0.0, (shared[:3], shared[3:5]))
    assert state.bytes_now() == (12 + 100) * 4
    indicator = SinceCompute()
    indicator.update(torch.zeros(2), None)
    state.branches["b"].indicator = indicator
    assert state.bytes_now() == (12 + 100 + 2) * 4


def test_once_closed_the_counts_stay_and_the_run_is_gone() -> None:
    state = holding(a=8)
    assert state.run is not None
    state.run.index, state.run.calls = 4, 1
    state.record.event("a", "trunk", 0, "warmup")
    state.shared["trunk"] = (0, "warmup")
    state.note_peak()
    state.branches = {}
    assert state.stats("newton()").bytes_held == 0
    state.close(whole=True)
    assert (state.run, state.shared) == (None, {})
    stats = state.stats("newton()")
    assert (stats.steps, stats.computed, stats.bytes_held, stats.bytes_now) == (5, 1, 32, 0)
    assert state.steps == 5


def test_the_peak_is_noted_before_histories_shrink() -> None:
    state = holding(a=8, b=8)
    state.note_peak()
    del state.branches["b"]
    state.note_peak()
    assert state.record.most_bytes == 64


def test_a_call_behind_the_last_evaluation_is_none() -> None:
    run = Run(timesteps=[9.0, 8.0])
    run.place(9.0, None)
    state = RunState(run)
    run.index, run.calls = 2, 1
    assert state.steps == 2
    state.close(whole=True)
    assert (state.steps, state.whole, state.entries) == (2, True, 2)
