"""The front door: enabling replaces, disabling restores, the with-form does both."""

import pytest
import torch

import dcache
from dcache import DcacheError, methods
from tests.engine.tiny_models import Toy, flux_pipe, flux_run, integers, sd_pipe, sd_run, walk

EVERY_2 = methods.interval(interval=2)


TIMES = [4, 3, 2, 1]


def test_enabling_again_replaces_and_counts_afresh() -> None:
    pipe = flux_pipe()
    plain = flux_run(pipe)
    dcache.enable(pipe, EVERY_2)
    flux_run(pipe)
    assert dcache.enable(pipe, "interval", interval=3) is pipe
    assert dcache.stats(pipe).computed == 0
    flux_run(pipe)
    assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (2, 4)
    # First through the pipe, then on its module.
    dcache.enable(pipe.transformer, EVERY_2)
    flux_run(pipe)
    assert dcache.stats(pipe.transformer).predicted == 3
    dcache.disable(pipe)
    assert torch.equal(flux_run(pipe), plain)


def test_enabling_in_mid_run_replaces_from_the_next_evaluation_on() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)

    def change(p: object, step: int, _t: object, kwargs: dict[str, object]) -> dict[str, object]:
        if step == 2:
            dcache.enable(pipe, "interval", interval=3)
        return kwargs

    assert torch.isfinite(flux_run(pipe, callback_on_step_end=change)).all()
    assert dcache.stats(pipe).computed + dcache.stats(pipe).predicted == 3


def test_disabling_what_is_not_enabled_is_no_error() -> None:
    pipe = flux_pipe()
    before = sorted(vars(pipe.transformer))
    assert dcache.disable(pipe) is pipe
    assert dcache.disable(dcache.disable(pipe.transformer)) is pipe.transformer
    assert sorted(vars(pipe.transformer)) == before


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("interval", {"interval": 3, "sites": "run:3-9"}),
        ("interval", {"interval": 3, "sites": "attn", "codec": "delta"}),
        ("interval", {"intervall": 3}),
        ("interval", {"interval": 3, "lowering": "fastest"}),
        ("deepcache", {}),
    ],
)
def test_an_enable_that_fails_leaves_the_previous_method_and_its_statistics(
    method: str, options: dict
) -> None:
    pipe = flux_pipe()
    plain = flux_run(pipe)
    dcache.enable(pipe, EVERY_2)
    cached = flux_run(pipe)
    with pytest.raises(DcacheError):
        dcache.enable(pipe, method, **options)
    assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (3, 3)
    assert torch.equal(flux_run(pipe), cached)
    assert dcache.stats(pipe).predicted == 3
    dcache.disable(pipe)
    with pytest.raises(DcacheError):
        dcache.enable(pipe, method, **options)
    assert torch.equal(flux_run(pipe), plain)


def test_the_with_form_restores_what_was_enabled_before_also_after_an_exception() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    inside = []

    def fail() -> None:
        with dcache.enabled(toy, methods.interval(interval=3, codec="value")):
            inside.extend(integers(walk(toy, TIMES)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [40, 40, 40, 16]
    assert integers(walk(toy, TIMES)) == [40, 39, 24, 23]
    dcache.disable(toy)
    with dcache.enabled(toy, EVERY_2):
        walk(toy, TIMES)
    assert integers(walk(toy, TIMES)) == [40, 32, 24, 16]
    assert dcache.stats(toy).predicted == 2


def test_the_with_form_keeps_a_schedules_checks() -> None:
    pipe = sd_pipe()
    dcache.enable(pipe, EVERY_2)
    sd_run(pipe)
    schedule = dcache.trace(pipe)
    dcache.enable(pipe, schedule, strict=True)
    with dcache.enabled(pipe, EVERY_2):
        sd_run(pipe)
    pipe.scheduler = _euler(pipe)
    with pytest.raises(
        DcacheError, match=r"made with sampler DDIMScheduler and is used with EulerDiscrete.*strict"
    ):
        sd_run(pipe)


def _euler(pipe: object) -> object:
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler.from_config(pipe.scheduler.config)
