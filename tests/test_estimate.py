"""`memory_estimate`: the bytes of full histories, from one evaluation that leaves nothing behind."""

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

import dcache
from dcache import DcacheError, Method, methods
from tests.engine.tiny_models import Mix, Toy, flux_pipe

# (1, 2, 4) in float32.
TENSOR = 32
CALL = {"x": torch.ones(1, 2, 4), "timestep": 1}


@pytest.mark.parametrize(
    ("method", "tensors"),
    [
        (methods.interval(), 1),
        (methods.newton(order=2, clock="step"), 3),
        (methods.newton(order=1, clock="step", sites="block"), 6),
        (methods.interval(sites="model"), 1),
        # FoCa reads the entry before the newest of its two anchors as well.
        (methods.foca(sites="trunk"), 3),
        (methods.interval(codec="value:bfloat16"), 0.5),
        # What the front's blocks added when it was computed last, beside what the others did.
        (methods.fbcache(), 2),
    ],
    ids=lambda v: v.describe() if isinstance(v, Method) else str(v),
)
def test_the_anchors_of_one_evaluation_are_counted_as_often_as_they_will_be_kept(
    method: Any, tensors: float
) -> None:
    toy = Toy([Mix() for _ in range(3)])
    assert dcache.memory_estimate(toy, method, **CALL) == tensors * TENSOR
    # What a run really holds at its end.
    dcache.enable(toy, method)
    with torch.no_grad():
        for t in range(12, 0, -1):
            toy(torch.ones(1, 2, 4), t / 10)
    assert dcache.stats(toy).bytes_held == tensors * TENSOR


def test_nothing_is_left_on_a_module_and_what_was_enabled_is_enabled_again() -> None:
    toy = Toy()
    before = set(vars(toy))
    dcache.memory_estimate(toy, "interval", **CALL)
    assert set(vars(toy)) == before
    dcache.enable(toy, "interval", interval=3)
    with torch.no_grad():
        for t in (4, 3, 2, 1):
            toy(torch.ones(1, 2, 4), t)
    dcache.memory_estimate(toy, methods.newton(order=2, clock="step"), **CALL)
    stats = dcache.stats(toy)
    assert (stats.method, stats.computed, stats.predicted) == (
        methods.interval(interval=3).describe(), 2, 2,
    )  # fmt: skip


class Pipe:
    """A pipeline's loop around one or two denoisers, the second of which takes over half-way."""

    def __init__(self, *denoisers: nn.Module, sampler: Any = None) -> None:
        self.high, self.scheduler = denoisers[0], sampler
        if len(denoisers) > 1:
            self.low = denoisers[1]
        self.steps_made = self.freed = 0

    def maybe_free_model_hooks(self) -> None:
        self.freed += 1

    def __call__(self, steps: int = 6) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        x = torch.ones(1, 2, 4)
        with torch.no_grad():
            for i, t in enumerate(self.scheduler.timesteps):
                denoiser = getattr(self, "low", self.high) if i >= steps // 2 else self.high
                x = self.scheduler.step(denoiser(x, t), t, x).prev_sample
                self.steps_made += 1
        self.maybe_free_model_hooks()
        return x


def test_a_pipeline_is_stopped_after_one_evaluation_and_brought_to_its_end() -> None:
    pipe = Pipe(Toy(), sampler=FlowMatchEulerDiscreteScheduler())
    before = set(vars(pipe)), set(vars(pipe.scheduler)), set(vars(pipe.high))
    assert dcache.memory_estimate(pipe, "interval", steps=6) == TENSOR
    assert pipe.steps_made == 0
    assert pipe.freed == 1
    assert set(vars(pipe)) == before[0]
    assert set(vars(pipe.high)) == before[2]
    # A whole call is possible again, without caching.
    pipe()
    assert pipe.steps_made == 6


def test_of_two_denoisers_that_take_turns_each_is_waited_for() -> None:
    pipe = Pipe(Toy(), Toy(), sampler=FlowMatchEulerDiscreteScheduler())
    assert dcache.memory_estimate(pipe, "interval", steps=6) == 2 * TENSOR
    # Three evaluations of the first, and the one of the second stopped it.
    assert pipe.steps_made == 3


def test_the_estimate_is_what_a_real_pipeline_holds() -> None:
    pipe = flux_pipe()
    call: dict[str, Any] = {
        "prompt_embeds": torch.ones(1, 5, 16),
        "pooled_prompt_embeds": torch.ones(1, 16),
        "height": 64,
        "width": 64,
        "num_inference_steps": 4,
        "output_type": "latent",
    }
    estimate = dcache.memory_estimate(pipe, "interval", **call)
    dcache.enable(pipe, "interval")
    pipe(**call)
    # 16 tokens of the picture, 16 wide in float32; nothing behind the trunk reads the text's.
    assert estimate == dcache.stats(pipe).bytes_held == 16 * 16 * 4


def test_a_call_that_the_pipeline_refuses_says_what_to_give() -> None:
    pipe = flux_pipe()
    with pytest.raises(
        DcacheError,
        match=r"FluxPipeline refused the call with no argument \(ValueError: .*so give all",
    ):
        dcache.memory_estimate(pipe, "interval")
    with pytest.raises(DcacheError, match=r"FluxPipeline refused the call with prompt_embeds \(ValueError"):
        dcache.memory_estimate(pipe, "interval", prompt_embeds=torch.ones(1, 5, 16))


def test_what_cannot_be_stopped_or_found_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(
        DcacheError, match=r"no `scheduler` that dcache can stop .* denoiser instead \(high\)"
    ):
        dcache.memory_estimate(Pipe(Toy()), "interval", steps=6)

    class Nameless(nn.Module):
        def forward(self, x: torch.Tensor, r: Any) -> torch.Tensor:
            return x

    pipe = Pipe(Nameless(), sampler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(DcacheError, match="only a run can tell which module of Pipe is the denoiser"):
        dcache.memory_estimate(pipe, "interval", steps=6)
    with pytest.raises(DcacheError, match="'taylorser' is unknown"):
        dcache.memory_estimate(Toy(), "taylorser", **CALL)


# A preset's options beside the call's arguments -----------------------------------------------------

FLUX_CALL: dict[str, Any] = {
    "prompt_embeds": torch.ones(1, 5, 16),
    "pooled_prompt_embeds": torch.ones(1, 16),
    "height": 64,
    "width": 64,
    # Computed are 0, 1, 2 and 8: as many as order 3 keeps.
    "num_inference_steps": 9,
    "output_type": "latent",
}


def test_an_option_of_the_preset_is_none_of_the_call() -> None:
    pipe = flux_pipe()
    estimates = {
        order: dcache.memory_estimate(pipe, "taylorseer", order=order, **FLUX_CALL) for order in (1, 3)
    }
    for order, estimate in estimates.items():
        dcache.enable(pipe, "taylorseer", order=order)
        pipe(**FLUX_CALL)
        assert dcache.stats(pipe).bytes_held == estimate
    # Two anchors of every sublayer, and four.
    assert estimates[3] == 2 * estimates[1] > 0


def test_an_argument_of_neither_is_refused_with_those_there_are() -> None:
    toy = Toy()
    with pytest.raises(
        DcacheError,
        match=r"unknown argument\(s\) bogus: interval takes branches, codec, interval, last, sites, warmup; "
        r"Toy's call takes timestep, x$",
    ):
        dcache.memory_estimate(toy, "interval", bogus=3, **CALL)
    with pytest.raises(DcacheError, match=r"order: default takes no options; Toy's call takes timestep, x$"):
        dcache.memory_estimate(toy, order=3, **CALL)
    # A method that is made already has its options.
    with pytest.raises(DcacheError, match=r"unknown argument\(s\) order: Toy's call takes timestep, x$"):
        dcache.memory_estimate(toy, methods.interval(), order=3, **CALL)
    with pytest.raises(
        DcacheError, match=r"unknown argument\(s\) bogus: taylorseer takes .*order.* call takes"
    ):
        dcache.memory_estimate(flux_pipe(), "taylorseer", bogus=3, **FLUX_CALL)


def test_an_argument_that_the_call_cannot_do_without_is_named() -> None:
    with pytest.raises(
        DcacheError, match=r"Toy's call needs timestep: give all by name, .*\(toy, timestep=\.\.\.\)"
    ):
        dcache.memory_estimate(Toy(), "interval", x=CALL["x"])
    with pytest.raises(DcacheError, match=r"predict_action_chunk needs seen: .*, seen=\.\.\.\)"):
        dcache.memory_estimate(ToyPolicy(), interval=6)


class Ordered(Toy):
    """Takes an argument of a preset's name."""

    def forward(self, x: torch.Tensor, timestep: Any, order: int = 1) -> torch.Tensor:
        return super().forward(x, timestep) * order


def test_an_argument_of_both_is_refused_with_the_line_to_type() -> None:
    toy = Ordered()
    with pytest.raises(
        DcacheError,
        match=r"order may be an option of newton or an argument of Ordered's call\. Pass the method as an "
        r"object, dcache\.methods\.newton\(order=\.\.\.\): all keyword arguments are then the call's",
    ):
        dcache.memory_estimate(toy, "newton", order=2, **CALL)
    # That line: three anchors, and the call's own order.
    assert dcache.memory_estimate(toy, methods.newton(order=2), order=5, **CALL) == 3 * TENSOR
    # Where only the call takes it, it is the call's.
    assert dcache.memory_estimate(toy, "interval", order=5, **CALL) == TENSOR


class Anything(Toy):
    """Takes any argument."""

    def forward(self, x: torch.Tensor, timestep: Any, **more: Any) -> torch.Tensor:
        return super().forward(x, timestep)


def test_a_call_that_takes_anything_is_given_what_looks_like_no_option() -> None:
    toy = Anything()
    assert dcache.memory_estimate(toy, "newton", order=2, prompt=64, height=64, **CALL) == 3 * TENSOR
    # Another preset's option, a misspelled one, and one of `enable`.
    for option in ("threshold", "intervall", "lowering"):
        with pytest.raises(DcacheError, match=rf"unknown argument\(s\) {option}: newton takes .*order"):
            dcache.memory_estimate(toy, "newton", prompt=64, **{option: 1}, **CALL)


# Policies ---------------------------------------------------------------------------------------------


class ToyPolicy(nn.Module):
    """Makes a chunk by a method; its call as a module is a loss, as in lerobot."""

    def __init__(self) -> None:
        super().__init__()
        self.toy, self.evaluations = Toy([Mix() for _ in range(3)]), 0

    def forward(self, batch: Any) -> Any:
        raise AssertionError("the loss was asked for")

    def predict_action_chunk(self, seen: torch.Tensor, steps: int = 8) -> torch.Tensor:
        x = seen
        for t in range(steps, 0, -1):
            x = self.toy(x, t / 10)
            self.evaluations += 1
        return x


@pytest.mark.parametrize(
    ("arguments", "tensors"),
    [
        ({}, 1),
        ({"interval": 2}, 1),
        ({"method": "newton", "order": 2, "clock": "step"}, 3),
        ({"steps": 1}, 1),
    ],
    ids=str,
)
def test_a_policy_is_asked_for_a_chunk_which_is_stopped_and_has_its_own_default(
    arguments: dict[str, Any], tensors: int
) -> None:
    policy = ToyPolicy()
    assert dcache.memory_estimate(policy, seen=torch.ones(1, 2, 4), **arguments) == tensors * TENSOR
    assert policy.evaluations == 1
    with pytest.raises(
        DcacheError,
        match=r"bogus: policy_default takes interval; ToyPolicy's predict_action_chunk takes seen, steps$",
    ):
        dcache.memory_estimate(policy, bogus=1)
