"""What a new user's session broke, each with the value that is right."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import dcache
from dcache import DcacheError, Method, methods
from dcache.engine.observe import Observer, observe
from dcache.engine.session import session_of
from tests.engine.tiny_models import Toy, flux_pipe, flux_run, walk
from tests.pipelines import FLUX, PIXART, SD, before_step


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"steps": "4"}, "steps must be a whole number of at least 1, got '4'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number"),
        ({"sigma": "a"}, "sigma must be a number"),
        ({"timestep": "x"}, "timestep must be a number"),
        ({"branch": 1}, "branch must be a name or None, got 1"),
        ({"flow": "yes"}, "flow must be True or False, got 'yes'"),
        ({"steps": 3, "index": 5}, "index counts from 0 and must be below steps=3, got 5"),
        ({"sigma": float("nan")}, "sigma must be a number, got nan"),
        ({"index": True}, "index must be a whole number of at least 0, got True"),
        ({"timestep": torch.tensor([1.0])}, "timestep must be a number, got tensor"),
    ],
)
def test_a_step_is_checked_when_it_is_said(said: dict[str, Any], words: str) -> None:
    toy = dcache.enable(Toy(), methods.interval(interval=2))
    with pytest.raises(DcacheError, match=words):
        dcache.step(toy, **{"index": 0, **said})
    dcache.step(toy, 0, sigma=float("inf"))
    walk(toy, [0.0])
    assert dcache.stats(toy).computed == 1


@pytest.mark.parametrize("of", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_a_step_takes_numbers_of_other_libraries(of: Any) -> None:
    traces = []
    for number in (lambda value: value, of):
        toy = dcache.enable(Toy(), "newton", interval=2, clock="sigma")
        for i in range(4):
            sigma, steps = number(0.9 - 0.2 * i), number(4)
            dcache.step(toy, number(i), sigma=sigma, timestep=number(900 - 200 * i), steps=steps)
            walk(toy, [float(i)])
        traces.append(json.dumps(dcache.trace(toy).content()))
    assert traces[0] == traces[1]


def test_an_error_while_caching_is_taken_off_brings_the_outer_method_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    toy = dcache.enable(Toy(), methods.interval(interval=2))

    def broken(*_: Any) -> None:
        raise ValueError("broken")

    def scoped() -> None:
        with monkeypatch.context() as patch, dcache.enabled(toy, "newton"):
            patch.setattr(session_of(toy), "end_run", broken)

    with pytest.raises(ValueError, match="broken"):
        scoped()
    restored = session_of(toy)
    assert restored is not None
    assert restored.method.name == "interval"


@pytest.mark.parametrize("shape", [FLUX, SD], ids=str)
def test_the_most_bytes_held_count_an_indicator_that_shrinks_again(shape: Any) -> None:
    pipe = dcache.enable(shape.build(), "easycache", threshold=1e9)
    held: list[int] = []
    before_step(pipe, lambda: held.append(dcache.stats(pipe).bytes_now))
    shape.run(pipe, "off", num_inference_steps=14)
    assert dcache.stats(pipe).predicted > 0
    assert dcache.stats(pipe).bytes_held >= max(held)


def test_a_function_is_a_preset_by_its_declaration_and_not_by_its_name() -> None:
    def newton() -> Method:
        return methods.interval(interval=2)

    with pytest.raises(DcacheError, match=r"newton is a function and no preset: call it, .*newton\(\)"):
        dcache.enable(Toy(), newton)

    @methods.preset("mine", sites="any")
    def mine(every: int = 2) -> Method:
        """Mine."""
        return methods.interval(interval=every)

    toy = dcache.enable(Toy(), mine, every=3)
    assert dcache.stats(toy).method == "mine(every=3)"
    with pytest.raises(DcacheError, match="mine has no option 'evry': it takes every"):
        dcache.enable(toy, mine, evry=3)


class Counting(Observer):
    sees_outputs = False

    def __init__(self) -> None:
        self.left = 0

    def on_leave(self, site: str, call: Any, computed: bool) -> None:
        self.left += computed


def test_observers_see_a_call_once_however_often_a_budget_repeats_it() -> None:
    pipe = dcache.enable(PIXART.build(), "taylorseer", interval=2, order=1)
    PIXART.run(pipe)
    limit = dcache.stats(pipe).bytes_held * 2 // 5
    dcache.enable(pipe, "taylorseer", interval=2, order=1, max_cache_bytes=limit)
    counting = Counting()
    with pytest.warns(dcache.DcacheWarning, match="lowered to"), observe(PIXART.denoiser(pipe), counting):
        PIXART.run(pipe)
    assert counting.left == dcache.stats(pipe).computed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"compile": {"backend": "nope"}}, "torch.compile refuses compile={'backend': 'nope'}"),
        ({"compile": {"foo": 1}}, "torch.compile refuses compile={'foo': 1}"),
        ({"compile": {"bogus": 1}}, "it has no option 'bogus', only fullgraph"),
        ({"compile": "yes"}, "compile must be True, False or arguments of torch.compile, got 'yes'"),
        ({"strict": "no"}, "strict must be True or False, got 'no'"),
    ],
)
def test_options_of_the_engine_are_checked(options: dict[str, Any], words: str) -> None:
    pipe = dcache.enable(flux_pipe(), methods.interval(interval=2))
    with pytest.raises(DcacheError, match=words):
        dcache.enable(pipe, "newton", **options)
    flux_run(pipe)
    assert dcache.stats(pipe).method == "interval(interval=2)"


def test_memory_is_estimated_for_what_enable_would_take() -> None:
    call = PIXART.arguments()
    expected = dcache.memory_estimate(PIXART.build(), methods.newton(order=5), **call)
    assert expected == 3 * dcache.memory_estimate(PIXART.build(), methods.newton(order=1), **call)
    for method, options in (
        ("newton", {"order": 5}),
        (methods.newton, {"order": 5}),
        ("newton:interval=4", {"order": 5}),
        ("Newton:order=5", {}),
    ):
        assert dcache.memory_estimate(PIXART.build(), method, **options, **call) == expected


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("newton", {"ordr": 5}, "unknown argument.s. ordr: newton takes branches, clock"),
        (methods.newton(), {"order": 5}, "unknown argument.s. order: PixArtAlphaPipeline's call takes"),
        ("newton", {"max_cache_bytes": "1GB"}, "unknown argument.s. max_cache_bytes"),
    ],
)
def test_a_mistyped_option_is_none_of_a_call_that_takes_anything(
    method: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(DcacheError, match=words):
        dcache.memory_estimate(PIXART.build(), method, **options, **PIXART.arguments())
