"""A run's place in the tables and its clocks, by hand and with diffusers' samplers."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from dcache.errors import DcacheError
from dcache.identity.clock import CLOCKS
from dcache.identity.listener import Listener
from dcache.identity.run import Run
from dcache.identity.sampler import tap

SAMPLERS = {
    "DDIM": (DDIMScheduler, 6),
    "PNDM": (lambda: PNDMScheduler(skip_prk_steps=True), 7),
    "PNDM with warm-up": (PNDMScheduler, None),
    "Heun": (HeunDiscreteScheduler, 11),
    "DPM++": (DPMSolverMultistepScheduler, 6),
    "DPM++ Karras": (lambda: DPMSolverMultistepScheduler(use_karras_sigmas=True), 6),
    "DPM++ flow": (
        lambda: DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        6,
    ),
    "Euler": (EulerDiscreteScheduler, 6),
    "EDM Euler": (EDMEulerScheduler, 6),
    "LCM": (LCMScheduler, 6),
    "flow Euler": (FlowMatchEulerDiscreteScheduler, 6),
    "flow Euler shifted": (lambda: FlowMatchEulerDiscreteScheduler(shift=3.0), 6),
    "flow Heun": (FlowMatchHeunDiscreteScheduler, 11),
    "UniPC": (UniPCMultistepScheduler, 6),
    "UniPC flow": (
        lambda: UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        6,
    ),
}
FLOWS = {"DPM++ flow", "flow Euler", "flow Euler shifted", "flow Heun", "UniPC flow"}


class Spy(Listener):
    def __init__(self):
        self.opened = 0

    def before_run(self):
        self.opened += 1


def walk(sampler, steps=6, sees=lambda run, t: None):
    """A pipeline's loop: one denoiser call and one step per timestep."""
    listener = Spy()
    watched = tap(sampler, listener)
    sampler.set_timesteps(steps)
    run = watched.run
    x = torch.randn(1, 4)
    for t in sampler.timesteps:
        if not run.started:
            run.place(float(t), watched.begin_index())
        run.calls += 1
        sees(run, t)
        if hasattr(sampler, "scale_model_input"):
            sampler.scale_model_input(x, t)
        x = sampler.step(torch.zeros_like(x), t, x).prev_sample
    watched.leave(listener)
    assert listener.opened == 1
    return run


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_count_one_evaluation_per_step_and_know_their_clocks(name):
    make, evaluations = SAMPLERS[name]
    indices, clocks = [], {clock: [] for clock in (None, "step", "logsnr")}

    def sees(run, t):
        indices.append(run.index)
        for clock, values in clocks.items():
            values.append(run.clock(clock))

    sampler = make()
    run = walk(sampler, sees=sees)
    assert indices == list(range(len(sampler.timesteps)))
    assert evaluations is None or len(indices) == evaluations
    assert run.count == len(indices)
    assert run.index == run.count
    assert run.sampler == type(sampler).__name__
    assert run.flow == (name in FLOWS)
    assert clocks["step"] == [float(i) for i in indices]
    # The noise level is known to all of these; second-order samplers repeat and PNDM's warm-up goes back.
    assert clocks[None] == clocks["logsnr"]
    if name != "PNDM with warm-up":
        assert all(a <= b for a, b in pairwise(clocks["logsnr"]))
        assert clocks["logsnr"][0] < clocks["logsnr"][-1] - 3


def test_ddim_and_euler_agree_on_log_snr():
    seen = []
    for sampler in (
        DDIMScheduler(timestep_spacing="leading"),
        EulerDiscreteScheduler(timestep_spacing="leading"),
    ):
        seen.append([])
        walk(sampler, sees=lambda run, t: seen[-1].append(run.clock("logsnr")))
    assert seen[0] == pytest.approx(seen[1], rel=1e-3)


@pytest.mark.parametrize(
    ("run", "value"),
    [
        (Run(timesteps=[9, 5], sigmas=[2.0, 1.0]), -2 * math.log(2)),
        (Run(timesteps=[9, 5]), 9.0),
        (Run(timesteps=[5, 9]), 5.0),
        (Run(timesteps=[9, 5, 5]), 0.0),
        (Run(timesteps=[9, 5, 7]), 0.0),
        (Run(), 0.0),
        (Run(told={0: (3.0, None)}), 3.0),
        (Run(told={0: (3.0, 2.0)}), -2 * math.log(2)),
        (Run(told={0: (None, None)}), 0.0),
    ],
)
def test_the_default_clock_is_the_best_that_is_known(run, value):
    assert run.clock(None) == pytest.approx(value)


def test_the_default_clock_is_not_changed_within_a_run():
    run = Run()
    run.tell(900.0, None)
    assert run.clock(None) == 900.0
    run.index = 1
    run.tell(950.0, 0.5)
    assert run.clock(None) == 950.0
    run.index = 2
    run.tell(None, 0.4)
    with pytest.raises(DcacheError, match=r"timestep of each evaluation.*evaluation 2"):
        run.clock(None)


@pytest.mark.parametrize("clock", [c for c in CLOCKS if c != "step"])
@pytest.mark.parametrize(("sampler", "says"), [("", "hand-written loop"), ("OddScheduler", "OddScheduler")])
def test_an_unknown_clock_is_an_error_that_says_what_to_do(clock, sampler, says):
    with pytest.raises(DcacheError, match=rf"clock='{clock}'.*{says}.*dcache\.step"):
        Run(sampler=sampler).clock(clock)
    assert Run(sampler=sampler).clock("step") == 0.0


def test_a_clock_beyond_the_tables_is_an_error():
    run = Run(timesteps=[9, 5], sigmas=[2.0, 1.0, 0.0], index=4)
    with pytest.raises(DcacheError, match="evaluation 4"):
        run.clock("sigma")


@pytest.mark.parametrize(
    ("timestep", "begin", "start"),
    [
        (1000.0, None, 0),
        (600.0, None, 2),
        (602.0, None, 2),
        (599, 1, 1),
        (None, None, 0),
        (None, 3, 3),
        (123.0, None, 0),
        # The model is given t / 1000, or 1 - t: no place in the table.
        (1.0, None, 0),
        (0.0, None, 0),
    ],
)
def test_where_the_first_evaluation_lies(timestep, begin, start):
    run = Run(timesteps=[1000.0, 800.0, 600.0, 400.0, 1.0], sigmas=[5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    run.place(timestep, begin)
    assert run.started
    assert run.start == start
    assert run.count == 5 - start
    assert run.clock("sigma") == 5.0 - start


def test_image_to_image_begins_late():
    sampler = FlowMatchEulerDiscreteScheduler()
    listener = Spy()
    watched = tap(sampler, listener)
    sampler.set_timesteps(8)
    sampler.set_begin_index(3)
    watched.run.place(None, watched.begin_index())
    assert (watched.run.start, watched.run.count) == (3, 5)
    assert watched.run.clock("sigma") == pytest.approx(float(sampler.sigmas[3]))
    watched.leave(listener)


def test_without_tables_there_is_no_count():
    run = Run()
    run.place(5.0, None)
    assert run.count is None


def test_a_timestep_on_the_scale_of_training_is_told_by_what_was_told_before():
    for unit in (1.0, 1000.0):
        run = Run(started=True)
        for i in range(5):
            run.index = i
            run.tell(unit * (1 - i / 5), None)
            assert run.time() == pytest.approx(1000 * (1 - i / 5))
    assert Run(started=True).time() is None


def test_a_start_among_equal_entries_is_settled_by_the_next_timestep():
    """PNDM repeats its second entry: image-to-image may begin at either."""
    for first, second, start in ((8.0, 8.0, 1), (8.0, 6.0, 2)):
        run = Run(timesteps=[9.0, 8.0, 8.0, 6.0, 4.0])
        run.place(first, None)
        assert (run.start, run.lengths()) == (1, {4, 3})
        run.index = 1
        run.narrow(second)
        assert (run.start, run.count, run.lengths()) == (start, 5 - start, {5 - start})
        assert run.clock("timestep") == second
    # One that fits neither leaves the first.
    run = Run(timesteps=[9.0, 8.0, 8.0, 6.0, 4.0])
    run.place(8.0, None)
    run.index = 1
    run.narrow(0.5)
    assert (run.start, run.lengths()) == (1, {4})


def test_a_run_is_over_behind_the_evaluations_that_are_expected():
    run = Run(timesteps=[9.0, 8.0, 7.0])
    assert (run.over, run.lengths()) == (False, set())
    run.place(8.0, None)
    run.index = 1
    assert not run.over
    run.index = 2
    assert run.over
    run.expect(3)
    assert (run.over, run.count, run.entries) == (False, 3, 2)
    # Without a table nothing is over.
    assert not Run(index=10**6, count=3).over


def test_a_sampler_that_jumps_in_its_table_has_as_many_evaluations_more_or_less():
    run = Run(timesteps=[9.0, 8.0, 7.0, 6.0, 5.0])
    run.place(9.0, None)
    run.index = 3
    run.jump(-2)
    assert (run.clock("timestep"), run.count) == (8.0, 7)
    run.jump(3)
    assert (run.clock("timestep"), run.count) == (5.0, 4)
    unknown = Run()
    unknown.jump(1)
    assert unknown.count is None


def test_a_sampler_that_is_set_back_goes_on_with_another_view_of_the_evaluation():
    run = Run(index=3)
    run.set_back(1)
    run.set_back(0)
    assert (run.index, run.view, run.views) == (2, 2, 2)
    run.set_back(9)
    assert run.index == 0
