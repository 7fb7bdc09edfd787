"""Digests of methods: the same in every process and release, another one for everything that is computed."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcache import methods, probes, schedulers
from dcache.demo.pipeline import coefficients
from dcache.eval.digest import NAMES, digest_of, plain
from dcache.eval.specs import parse
from dcache.method import Aim, Method
from dcache.predictors import Newton, Taylor
from dcache.predictors.corrections import Correction, Corrections
from dcache.probes import Probe
from dcache.schedule import Schedule
from dcache.schedule.plan import RunLength

# Folders of evaluations hold them: whoever changes one makes every such folder start afresh.
PINNED = {
    "default": "a06e34d140f3",
    "interval:interval=4,sites=attn+mlp": "60ac245be88b",
    "fbcache": "e4a7f5cb206b",
    "pab": "59672d3a4a52",
    "tgate": "9fafbc053780",
    "easycache": "7f7372bbe403",
    "delta_dit": "53f6faf51df0",
}


@pytest.mark.parametrize("spec", PINNED)
def test_digests_stay_what_they_are(spec: str) -> None:
    (choice,) = parse(spec)
    assert choice.digest == PINNED[spec]


def test_the_digest_of_a_schedule_is_of_its_content() -> None:
    schedule = Schedule.of_steps([0, 2], 4)
    assert digest_of(schedule) == digest_of(schedule.content()) == "93500b31c9c3"
    others = [
        Schedule.of_steps([0, 3], 4),
        Schedule.of_steps([0, 2], 4, "model"),
        Schedule.of_steps([0, 2], 4, predictor="newton"),
        replace(schedule, sigmas=(1.0, 0.8, 0.5, 0.2, 0.0)),
    ]
    assert len({digest_of(one) for one in [schedule, *others]}) == 5


@contextmanager
def renamed(cls: type) -> Iterator[None]:
    """A class under another name, in another module."""
    before = cls.__name__, cls.__qualname__, cls.__module__
    cls.__name__, cls.__qualname__, cls.__module__ = "Renamed", "Renamed", "elsewhere"
    try:
        yield
    finally:
        cls.__name__, cls.__qualname__, cls.__module__ = before


@pytest.mark.parametrize(
    "cls", [schedulers.AnyOf, schedulers.Every, probes.SinceCompute, Newton, Method, Schedule]
)
def test_a_class_may_be_renamed(cls: type) -> None:
    made = [choice.method for choice in parse("newton;fbcache;pab")] + [Schedule.of_steps([0, 2], 4)]
    before = [digest_of(one) for one in made]
    with renamed(cls):
        assert any("Renamed" in repr(one) for one in [*made, cls])
        assert [digest_of(one) for one in made] == before


def test_every_rule_has_a_name_of_its_own() -> None:
    exported = [getattr(schedulers, name) for name in schedulers.__all__]
    rules = {one for one in exported if inspect.isclass(one) and "__call__" in vars(one)}
    assert len(rules) > 15
    assert rules <= set(NAMES)
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize("preset", sorted(methods.available()))
def test_every_part_of_a_preset_has_a_name(preset: str) -> None:
    """What has none would be hashed under its class's own name, or by its `repr`."""
    (choice,) = parse(preset, coefficients())
    text = str(plain(choice.method))
    assert "dcache." not in text
    assert "object at 0x" not in text


CHANGED: dict[str, Any] = {
    "name": "other",
    "rule": schedulers.Every(4),
    "predictor": Newton(2),
    "sites": ("model",),
    "codec": "value",
    "clock": "step",
    "branches": "together",
    "probe": Probe("input"),
    "fixed": True,
    "uncond_from": "drop",
    "steps": 20,
    "runs": (RunLength(10, 10), RunLength(10, 11)),
    "corrections": Corrections({"trunk": {1: Correction(torch.ones(2), torch.zeros(2), 0)}}, {"trunk": -1}),
    "sigmas": (1.0, 0.5, 0.0),
    "made_for": ("Model", "abc"),
    "aim": Aim(2.0, None),
    "shares": True,
}


def test_every_part_of_a_method_counts_but_what_it_was_called_with() -> None:
    method = methods.interval(interval=3)
    made = {name: digest_of(replace(method, **{name: value})) for name, value in CHANGED.items()}
    assert digest_of(method) not in made.values()
    assert len(set(made.values())) == len(made)
    assert {field.name for field in fields(Method)} - set(CHANGED) == {"parameters", "defaults"}
    assert digest_of(replace(method, parameters={"profile": "/elsewhere"})) == digest_of(method)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (schedulers.Every(3), schedulers.EveryNthIndex(3)),
        (schedulers.ByKind({"attn": schedulers.Last()}), schedulers.BySite({"attn": schedulers.Last()})),
        (schedulers.Warmup(1), schedulers.Warmup(2)),
        (schedulers.Listed((0, 1)), schedulers.Listed((0, 2))),
        (Probe("front", 1), Probe("front", 2)),
        (Probe("input"), Probe("input", indicator=probes.SinceStep)),
        (np.arange(2000.0), np.arange(2000.0) + (np.arange(2000) == 1000)),
        (torch.zeros(2000), (torch.arange(2000) == 1000).float()),
        ({1, 2}, {1, 3}),
    ],
)
def test_parts_that_differ_have_other_digests(one: Any, other: Any) -> None:
    assert digest_of(one) != digest_of(other)


def test_predictors_count_by_name_and_parameters() -> None:
    method = methods.newton(interval=3)
    predictors = [Newton(1), Newton(2), Taylor(1), Taylor(1, since=2)]
    assert len({digest_of(replace(method, predictor=one)) for one in predictors}) == 4


def test_equal_values_have_equal_digests() -> None:
    assert plain({"b": np.float64(1.5), "a": (True, None, np.int64(2))}) == {"b": 1.5, "a": [True, None, 2]}
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert plain({3, 1, 2}) == plain(frozenset((2, 3, 1))) == [1, 2, 3]
    assert plain(Path("a/b")) == "a/b"


def test_a_rule_that_is_a_function_is_never_taken_for_another() -> None:
    rules = [lambda moment, t=t: None if moment.index > t else "early" for t in (1, 2)]
    assert digest_of(rules[0]) != digest_of(rules[1])
