"""Every mistake gets a message that says what was expected, what came and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from tests.engine.tiny_models import (
    Mix,
    Toy,
    ToyPipe,
    flux_model,
    flux_pipe,
    flux_run,
    integers,
    sd_pipe,
    sd_run,
    walk,
)

EVERY_2 = methods.interval(interval=2)
TIMES = [4, 3, 2, 1]


def assert_refused(words: str, act: Callable[[], Any]) -> None:
    """`act` raises a DcacheError in which every word of `words`, split at |, occurs."""
    with pytest.raises(DcacheError) as caught:
        act()
    for word in words.split("|"):
        assert word in str(caught.value), (word, str(caught.value))


# methods and options ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("taylorser", {}, "'taylorser' is unknown|taylorseer|Did you mean 'taylorseer'"),
        ("Intervall", {}, "'Intervall' is unknown|Did you mean 'interval'"),
        ("FORAA", {}, "'FORAA' is unknown|Did you mean 'interval'"),
        ("zzz", {}, "'zzz' is unknown|expected one of|path of a schedule file"),
        ("interval", {"intervall": 3}, "no option 'intervall'|it takes interval, warmup"),
        (None, {"interval": 3}, "write dcache.enable(pipe, 'interval', interval=3)|newton, policy_default"),
        (None, {"nothing": 3}, "unknown option(s) nothing|compile, strict, lowering"),
        ("newton:interval", {}, "cannot read 'interval' in 'newton:interval'|option=value"),
        (EVERY_2, {"interval": 3}, "unknown option(s) interval|compile, strict, lowering"),
        ("interval", {"interval": 0}, "interval must be a whole number of at least 1, got 0"),
        ("interval", {"interval": -2}, "interval must be a whole number of at least 1, got -2"),
        ("interval", {"interval": 2.5}, "interval must be a whole number of at least 1, got 2.5"),
        ("interval", {"interval": True}, "interval must be a whole number of at least 1, got True"),
        ("interval", {"interval": "3"}, "interval must be a whole number of at least 1, got '3'"),
        ("interval", {"interval": None}, "interval must be a whole number of at least 1, got None"),
        ("interval", {"warmup": -1}, "warmup must be a whole number of at least 0, got -1"),
        ("taylorseer", {"interval": 0}, "interval must be a whole number of at least 1"),
        ("taylorseer", {"order": -1}, "order must be a whole number|got -1"),
        ("newton", {"order": 99}, "order must be a whole number|got 99"),
        (
            "newton",
            {"clock": "seconds"},
            "clock must be one of step, timestep, sigma, logsnr or None, got 'seconds'",
        ),
        ("fbcache", {"threshold": -0.1}, "threshold must be a number of at least 0.0, got -0.1"),
        ("fbcache", {"threshold": float("nan")}, "threshold must be a number of at least 0.0, got nan"),
        ("fbcache", {"threshold": "0.1"}, "threshold must be a number of at least 0.0, got '0.1'"),
        ("fbcache", {"max_run": -1}, "max_run must be a whole number of at least 1"),
        ("interval", {"codec": "difference"}, "codec 'difference' is unknown|value, delta|'delta:bfloat16'"),
        ("interval", {"codec": "delta:int4"}, "codec 'delta:int4' is unknown|bfloat16"),
        ("interval", {"branches": "both"}, "branches must be one of separate, together, got 'both'"),
        ("interval", {"sites": "blocks"}, "site 'blocks' is not understood|FluxTransformer2DModel has|trunk"),
        ("interval", {"sites": "block:7"}, "'block:7' is out of range|blocks 0 to 3"),
        ("interval", {"sites": "run:3-1"}, "'run:3-1' is out of range"),
        (
            "interval",
            {"sites": "cross_attn"},
            "'cross_attn' does not exist|it has: model, trunk|attn, mlp, fused",
        ),
        ("interval", {"sites": "bracket:0"}, "'bracket:0' needs a UNet with skips"),
        ("interval", {"sites": "front:9"}, "site 'front:9' is 9 blocks|has 4"),
        ("interval", {"sites": []}, "sites must be a site name or a list of them"),
        (
            "interval",
            {"sites": "attn", "codec": "delta"},
            "codec 'delta' does not fit attn:0|use codec='value'",
        ),
        ("interval", {"lowering": "fast"}, "lowering must be 'auto' or 'replay', got 'fast'"),
        (3, {}, "method must be a preset's name, a preset object, a Schedule or a path, got int"),
        ("nowhere/at/all.json", {}, "cannot read the schedule nowhere/at/all.json"),
    ],
)
def test_a_wrong_method_or_option_is_explained(method: Any, options: dict[str, Any], words: str) -> None:
    pipe = flux_pipe()
    assert_refused(words, lambda: dcache.enable(pipe, method, **options))
    assert not {"maybe_free_model_hooks", "progress_bar"} & set(vars(pipe))
    assert all(m.__dict__.get("_compiled_call_impl") is None for m in pipe.transformer.modules())


def test_sites_of_a_unet_are_explained_too() -> None:
    pipe = sd_pipe()
    assert_refused(
        "'trunk' needs a list of blocks|a UNet has brackets instead|bracket:N with N from 0 to",
        lambda: dcache.enable(pipe, EVERY_2.with_sites(("trunk",))),
    )
    assert_refused(
        "'bracket:99' is out of range|skips 0 to",
        lambda: dcache.enable(pipe, EVERY_2.with_sites(("bracket:99",))),
    )
    assert_refused(
        "brackets nest", lambda: dcache.enable(pipe, EVERY_2.with_sites(("bracket:0", "bracket:1")))
    )
    assert_refused(
        "codec 'delta' does not fit bracket:0|codec='value'",
        lambda: dcache.enable(pipe, methods.interval(interval=2, sites="bracket:0", codec="delta")),
    )
    assert_refused(
        "the dynamic rule's probe is the first|sites='model'|0 block(s)",
        lambda: dcache.enable(pipe, "fbcache"),
    )


# objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thing", [None, 3, "pipe", [nn.Linear(2, 2)], object(), {"a": 1}])
def test_what_is_no_pipeline_and_no_module_is_refused_everywhere(thing: Any) -> None:
    words = "expected a diffusers pipeline or a torch module, got " + type(thing).__name__
    assert_refused(words, lambda: dcache.enable(thing))
    assert_refused(words, lambda: dcache.disable(thing))
    assert_refused(words, lambda: dcache.stats(thing))
    assert_refused(words, lambda: dcache.trace(thing))
    assert_refused(words, lambda: dcache.step(thing, 0))


def test_a_pipeline_without_a_denoiser_says_what_it_looked_for() -> None:
    class NoDenoiser:
        def __init__(self) -> None:
            self.encoder = nn.Linear(2, 2)

    assert_refused("no denoiser found in NoDenoiser|encoder|timestep", lambda: dcache.enable(NoDenoiser()))


def test_stats_trace_and_step_before_there_is_anything() -> None:
    pipe, toy = flux_pipe(), Toy()
    assert_refused("caching is not enabled on this FluxPipeline|dcache.enable", lambda: dcache.stats(pipe))
    assert_refused("caching is not enabled on this Toy|dcache.enable", lambda: dcache.stats(toy))
    assert_refused("no run to trace yet", lambda: dcache.trace(pipe))
    assert_refused("caching enabled on it, got Toy: call dcache.enable", lambda: dcache.step(toy, 0))
    two = dcache.enable(ToyPipe(Toy(), Toy()), EVERY_2)
    assert_refused("enabled on denoiser, denoiser_1: give one of them", lambda: dcache.step(two, 0))
    assert_refused("memo= of enable) must be one of", lambda: dcache.enable(pipe, EVERY_2, memo="x"))
    dcache.enable(pipe, EVERY_2)
    assert_refused("no run to trace yet|call the pipeline first", lambda: dcache.trace(pipe))
    assert "nothing ran yet: call the pipeline first" in str(dcache.stats(pipe))
    dcache.disable(pipe)
    assert_refused("no run to trace yet", lambda: dcache.trace(pipe))


@pytest.mark.parametrize("index", [-1, 1.0, True, None, "0"])
def test_an_index_of_step_must_be_a_whole_number(index: Any) -> None:
    toy = dcache.enable(Toy(), EVERY_2)
    assert_refused("index must be a whole number of at least 0", lambda: dcache.step(toy, index))


@pytest.mark.parametrize("clock", ["sigma", "logsnr"])
def test_a_clock_that_nobody_tells_is_an_error_at_the_first_call(clock: str) -> None:
    toy = dcache.enable(Toy(), methods.newton(clock=clock))
    assert_refused(
        f"clock='{clock}' needs the noise level|a hand-written loop does not tell|dcache.step",
        lambda: walk(toy, TIMES),
    )
    with torch.no_grad():
        for i, t in enumerate([0.8, 0.6, 0.4, 0.2]):
            dcache.step(toy, i, sigma=t, flow=True)
            toy(torch.ones(1, 2, 4), t)
    assert dcache.stats(toy).steps == 4


# schedules ----------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return Schedule.of_steps([0, 2, 4], 6, predictor="newton", parameters={"order": 1}).save(
        tmp_path / "s.json"
    )


def edited(file: Path, change: Callable[[dict[str, Any]], None], keep_checksum: bool = False) -> Path:
    content = json.loads(file.read_text())
    change(content)
    if not keep_checksum:
        del content["checksum"]
    file.write_text(json.dumps(content))
    return file


def test_a_schedule_file_that_is_fine_is_used(file: Path) -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, str(file))
    flux_run(pipe)
    assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (3, 3)


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9])
def test_a_truncated_schedule_file_says_so(file: Path, cut: float) -> None:
    text = file.read_text()
    file.write_text(text[: int(len(text) * cut)])
    assert_refused("s.json|truncated or damaged|Schedule.save", lambda: dcache.enable(flux_pipe(), file))


def _rows(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda content: change(content["components"][""]["rows"]["*"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(steps=7), "'trunk'|has 6 entries, expected 7"),
        (lambda c: c.update(steps=0), '"steps" must be|at least 1, got 0'),
        (lambda c: c.update(steps="6"), "'steps' must be int, got str"),
        (lambda c: c.update(format="other"), "no schedule"),
        (lambda c: c.update(version=99), "version 99 is not readable|another release"),
        (lambda c: c.update(speed=1), "unknown ['speed']"),
        (lambda c: c.pop("sampler"), "lacks ['sampler']"),
        (lambda c: c.update(components={}), "at least one component"),
        (_rows(lambda r: r.update(trunk="1x1010")), "text of 0 and 1"),
        (_rows(lambda r: r.update(trunk=[1, 0])), "text of 0 and 1"),
        (_rows(lambda r: r.clear()), "no rows"),
        (lambda c: c["components"][""].update(predictor="oracle"), "'oracle' is unknown|reuse"),
        (lambda c: c["components"][""].update(parameters={"degree": 1}), "does not take {'degree': 1}"),
        (lambda c: c["components"][""].update(codec="zip"), "codec 'zip' is unknown"),
        (lambda c: c["components"][""].update(clock="seconds"), "clock must be one of"),
    ],
)
def test_a_hand_edited_schedule_file_is_explained(file: Path, change: Any, words: str) -> None:
    assert_refused("s.json|" + words, lambda: dcache.enable(flux_pipe(), edited(file, change)))


def test_an_edit_under_the_old_checksum_is_noticed(file: Path) -> None:
    edited(file, _rows(lambda r: r.update(trunk="111010")), keep_checksum=True)
    assert_refused("checksum|edited by hand|delete", lambda: dcache.enable(flux_pipe(), file))
    assert Schedule.load(edited(file, lambda c: None)).components[""].rows["*"]["trunk"][1]


def test_a_schedule_for_other_sites_evaluations_or_components_is_refused() -> None:
    pipe = flux_pipe()
    assert_refused(
        "'run:1-9' is out of range", lambda: dcache.enable(pipe, Schedule.of_steps([0, 2], 6, "run:1-9"))
    )
    assert_refused(
        "'bracket:0' needs a UNet", lambda: dcache.enable(pipe, Schedule.of_steps([0, 2], 6, "bracket:0"))
    )
    dcache.enable(pipe, Schedule.of_steps([0, 2], 4))
    assert_refused("for 4 evaluations and the run has 6|stretch", lambda: flux_run(pipe))
    flux_run(pipe, steps=4)
    assert dcache.stats(pipe).predicted == 2
    toy = dcache.enable(Toy(), Schedule.of_steps([0, 2], 3))
    assert_refused("for 3 evaluations and the run has 4 or more|stretch", lambda: walk(toy, TIMES))
    two = Schedule(4, {n: Schedule.of_steps([0], 4).components[""] for n in ("high", "low")})
    assert_refused("denoisers ['high', 'low']|'transformer'", lambda: dcache.enable(pipe, two))


def test_a_schedule_of_another_model_class_or_config_warns_and_strict_refuses() -> None:
    pipe = flux_pipe()
    dcache.enable(pipe, EVERY_2)
    flux_run(pipe)
    schedule = dcache.trace(pipe)
    with pytest.warns(DcacheWarning, match="made with model FluxTransformer2DModel and is used with Toy"):
        dcache.enable(Toy([Mix() for _ in range(4)]), schedule)
    other = flux_model(layers=1, single=3)
    with pytest.warns(DcacheWarning, match=r"made with config .* and is used with"):
        dcache.enable(other, schedule)
    dcache.disable(other)
    assert_refused("config|strict=True", lambda: dcache.enable(other, schedule, strict=True))
    assert other.__dict__.get("_compiled_call_impl") is None


# numbers ------------------------------------------------------------------------------------------


class Poison(Toy):
    poison = False

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        return super().forward(x * float("nan") if self.poison else x, timestep)


def test_a_probe_that_is_not_a_number_computes_and_says_so() -> None:
    toy = Poison()
    dcache.enable(toy, methods.fbcache(threshold=0.5))
    walk(toy, TIMES[:2])
    assert dcache.stats(toy).predicted == 1
    toy.poison = True
    with pytest.warns(
        DcacheWarning, match="not a number: the denoiser produced NaN; the evaluation is computed"
    ):
        outputs = walk(toy, TIMES[2:])
    assert all(bool(torch.isnan(o).all()) for o in outputs)
    stats = dcache.stats(toy)
    assert (stats.predicted, stats.reasons["nan"]) == (1, 2)
    assert "nan 2" in str(stats)
    toy.poison = False
    assert integers(walk(toy, TIMES))[0] == 40


# nothing predicted --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (
            methods.interval(interval=2, warmup=9),
            "6 x inside the warm-up (raise the step count or lower warmup=)",
        ),
        (
            methods.fbcache(threshold=1e-9),
            "5 x the probe changed by more than the threshold (raise threshold=)",
        ),
    ],
)
def test_a_run_in_which_nothing_was_predicted_says_so_and_why(method: Any, words: str) -> None:
    pipe = flux_pipe()
    plain = flux_run(pipe)
    dcache.enable(pipe, method)
    with pytest.warns(DcacheWarning) as warned:
        assert torch.equal(flux_run(pipe), plain)
    assert any("nothing was predicted" in str(w.message) and words in str(w.message) for w in warned)
    text = str(dcache.stats(pipe))
    assert "nothing was predicted" in text
    assert words in text


def test_a_method_that_was_asked_to_compute_everything_does_not_complain() -> None:
    pipe = flux_pipe()
    for method in (methods.interval(interval=1), methods.fbcache(threshold=0.0)):
        dcache.enable(pipe, method)
        flux_run(pipe)
        assert dcache.stats(pipe).predicted == 0


def test_a_run_of_an_sd_pipeline_with_too_few_steps_says_so() -> None:
    pipe = sd_pipe()
    dcache.enable(pipe)
    with pytest.warns(
        DcacheWarning, match=r"nothing was predicted in this run of UNet2DConditionModel.*warm-up"
    ):
        sd_run(pipe, steps=3)
