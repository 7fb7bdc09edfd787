"""The front door: enabling replaces, disabling restores, the with-form does both."""

from pathlib import Path

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from tests.engine.tiny_models import Toy, ToyPipe, flux_pipe, flux_run, integers, sd_pipe, sd_run, walk

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


def test_statistics_and_the_trace_of_a_run_outlive_its_caching() -> None:
    toy = dcache.enable(Toy(), EVERY_2)
    walk(toy, TIMES)
    stats, trace = dcache.stats(toy), dcache.trace(toy)
    dcache.disable(toy)
    assert (stats.computed, stats.predicted) == (2, 2)
    assert dcache.stats(toy) == stats
    assert dcache.trace(toy) == trace
    # Disabling once more forgets nothing.
    dcache.disable(toy)
    assert dcache.trace(toy) == trace


def test_a_method_is_a_name_a_preset_a_schedule_or_the_path_of_one(tmp_path: Path) -> None:
    schedule = Schedule.of_steps([0, 2], 4, codec="delta")
    path = schedule.save(tmp_path / "s.json")
    expected = [40.0, 39.0, 24.0, 23.0]
    for method in (EVERY_2, schedule, path, str(path)):
        assert integers(walk(dcache.enable(Toy(), method), TIMES)) == expected
    assert integers(walk(dcache.enable(Toy(), "interval", interval=2), TIMES)) == expected
    with pytest.raises(DcacheError, match=r"unknown option\(s\) interval for a Schedule: the engine takes"):
        dcache.enable(Toy(), schedule, interval=2)
    with pytest.raises(DcacheError, match=r"method must be a preset's name, .* got int"):
        dcache.enable(Toy(), 3)


def test_engine_options_go_with_any_method() -> None:
    toy = dcache.enable(Toy(), EVERY_2, lowering="replay", max_cache_bytes="1MB")
    assert integers(walk(toy, TIMES)) == [40.0, 39.0, 24.0, 23.0]
    with pytest.raises(DcacheError, match="lowering must be 'auto' or 'replay', got 'fast'"):
        dcache.enable(Toy(), EVERY_2, lowering="fast")


def test_the_with_form_hands_out_the_object_and_leaves_it_plain() -> None:
    toy = Toy()
    with dcache.enabled(toy, EVERY_2) as inside:
        assert inside is toy
        assert integers(walk(toy, TIMES)) == [40.0, 39.0, 24.0, 23.0]
    assert integers(walk(toy, TIMES)) == [40.0, 32.0, 24.0, 16.0]


def test_a_denoiser_that_a_schedule_has_no_rows_for_is_left_alone_and_said() -> None:
    # As Versatile Diffusion's: it has two, and a call uses one of them.
    pipe = ToyPipe(Toy(), Toy())
    pipe.names = ["denoiser"]
    cached = dcache.enable(pipe, EVERY_2)()
    assert dcache.stats(pipe).predicted > 0
    with pytest.warns(
        DcacheWarning, match="has no rows for denoiser_1, which is therefore not cached"
    ) as said:
        dcache.enable(pipe, dcache.trace(pipe))
    # It is shown with the line that enabled it.
    assert [warning.filename for warning in said] == [__file__]
    assert pipe() == cached
    assert "_compiled_call_impl" not in vars(pipe.denoiser_1)
    with pytest.raises(DcacheError, match="schedule is for the denoisers"):
        dcache.enable(pipe, Schedule(6, {"other": dcache.trace(pipe).components["denoiser"]}))
