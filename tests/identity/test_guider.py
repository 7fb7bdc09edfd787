"""Guiders name the branches: batches that are prepared, begun and ended around each denoiser call."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

import dcache
from dcache import methods
from dcache.identity.guider import guidance_of
from tests.engine.tiny_models import Toy

EVERY_2 = methods.interval(interval=2)
BOTH = ("pred_cond", "pred_uncond")


class Guider:
    """As diffusers': one batch for each condition, with its identifier under a private key."""

    _identifier_key = "__guidance_identifier__"

    def __init__(self, *conditions: tuple[str, ...]) -> None:
        self.conditions = conditions
        self.evaluation = -1

    def prepare_inputs(self, data: Any) -> list[Any]:
        self.evaluation += 1
        names = self.conditions[min(self.evaluation, len(self.conditions) - 1)]
        return [SimpleNamespace(**{self._identifier_key: name, "shift": len(name)}) for name in names]

    def prepare_models(self, denoiser: Any) -> None: ...

    def cleanup_models(self, denoiser: Any) -> None: ...


class Pipe:
    """A loop around a guider, as modular pipelines have it."""

    def __init__(self, guider: Any) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        self.transformer, self.scheduler, self.guider = Toy(), FlowMatchEulerDiscreteScheduler(), guider

    @property
    def components(self) -> dict[str, Any]:
        return {"transformer": self.transformer, "scheduler": self.scheduler, "guider": self.guider}

    def progress_bar(self) -> None:
        """Begins the call."""

    def maybe_free_model_hooks(self) -> None:
        """Ends it."""

    def __call__(self, steps: int = 4) -> None:
        self.progress_bar()
        self.scheduler.set_timesteps(steps)
        self.guider.evaluation = -1
        x = torch.zeros(1, 2, 4)
        with torch.no_grad():
            for t in self.scheduler.timesteps:
                for batch in self.guider.prepare_inputs(x):
                    self.guider.prepare_models(self.transformer)
                    out = self.transformer(x + batch.shift, timestep=0)
                    self.guider.cleanup_models(self.transformer)
                x = self.scheduler.step(out, t, x).prev_sample
        self.maybe_free_model_hooks()


def rows(pipe: Pipe) -> dict[str, str]:
    """Branch -> 1 where it was computed."""
    (plan,) = dcache.trace(pipe).components.values()
    return {b: "".join("01"[c] for c in sites["trunk"]) for b, sites in plan.rows.items()}


def test_branches_have_the_names_of_the_guiders_batches() -> None:
    # The second condition comes one evaluation later, so its row differs and both are listed.
    pipe = dcache.enable(Pipe(Guider(("pred_cond",), BOTH)), EVERY_2)
    pipe()
    assert set(rows(pipe)) == set(BOTH)
    assert rows(pipe)["pred_cond"] == "1010"
    assert rows(pipe)["pred_uncond"][1:] == "101"


def test_a_condition_that_is_left_out_does_not_shift_the_others() -> None:
    # By ordinals the one batch of evaluation 1 would be the first branch.
    pipe = dcache.enable(Pipe(Guider(BOTH, ("pred_uncond",), BOTH)), EVERY_2)
    pipe()
    made = rows(pipe)
    assert made["pred_uncond"] == "1010"
    assert (made["pred_cond"][0], made["pred_cond"][2:]) == ("1", "01")


class Unnamed(Guider):
    """Its batches have no identifier."""

    def prepare_inputs(self, data: Any) -> list[Any]:
        return [SimpleNamespace(shift=batch.shift) for batch in super().prepare_inputs(data)]


def test_batches_without_an_identifier_go_by_their_place() -> None:
    pipe = dcache.enable(Pipe(Unnamed(BOTH, BOTH[:1])), EVERY_2)
    pipe()
    assert set(rows(pipe)) == {"0", "1"}


@pytest.mark.parametrize("ran", [False, True])
def test_disable_gives_the_guider_its_own_methods_back(ran: bool) -> None:
    guider = Guider(BOTH)
    before = set(vars(guider))
    pipe = dcache.enable(Pipe(guider), EVERY_2)
    assert set(vars(guider)) > before
    if ran:
        pipe()
    dcache.disable(pipe)
    assert set(vars(guider)) == before


def test_a_replaced_guider_is_followed_and_the_old_one_is_left_as_it_was() -> None:
    first, second = Guider(("one",), ("one", "two")), Guider(("three",), ("three", "four"))
    before = set(vars(first))
    pipe = dcache.enable(Pipe(first), EVERY_2)
    pipe()
    assert set(rows(pipe)) == {"one", "two"}
    pipe.guider = second
    pipe()
    assert set(rows(pipe)) == {"three", "four"}
    assert set(vars(first)) == before


@pytest.mark.parametrize(
    ("kept", "scale"), [(3, 3.0), (7.5, 7.5), (None, None), ((3.0, 1.0), None), (torch.tensor(3.0), None)]
)
def test_the_guidance_scale_is_the_number_that_a_pipeline_keeps(kept: Any, scale: float | None) -> None:
    # A tensor or a pair is no scale.
    pipe = Guider()
    pipe._guidance_scale = kept
    assert guidance_of(pipe) == scale
    assert type(guidance_of(pipe)) is type(scale)


def test_a_pipeline_that_keeps_none_or_is_gone_has_no_guidance_scale() -> None:
    assert guidance_of(Guider()) is None
    assert guidance_of(None) is None
