"""Presets: the parts each one chooses, the published step lists, and refusals."""

import inspect
import itertools
import math

import pytest

from dcache import methods
from dcache.codecs import parse
from dcache.errors import DcacheError
from dcache.method import Method, site_list
from dcache.predictors import Newton, Reuse, Taylor
from dcache.probes import Probe
from dcache.sites import Site
from tests.moments import computed_steps

NAMES = list(methods.available())


@pytest.mark.parametrize(
    ("method", "steps", "full"),
    [
        (methods.taylorseer(), 50, [0, 1, 2, 8, 14, 20, 26, 32, 38, 44]),
        (methods.taylorseer(interval=9), 50, [0, 1, 2, 11, 20, 29, 38, 47]),
        (methods.taylorseer(interval=5, warmup=1), 50, list(range(0, 50, 5))),
        (methods.taylorseer(interval=5, warmup=1, last=True), 50, [*range(0, 50, 5), 49]),
        (methods.interval(), 10, [0, 3, 6, 9]),
        (methods.interval(interval=1), 3, [0, 1, 2]),
        (methods.deepcache(interval=5), 20, [0, 5, 10, 15]),
        (methods.deepcache(steps=[0, 3, 4]), 8, [0, 3, 4]),
        (methods.newton(), 10, [0, 1, 4, 7, 9]),
        (methods.default(), 20, [0, 1, 2, 5, 8, 11, 14, 17, 19]),
    ],
)
def test_computed_steps(method, steps, full):
    assert computed_steps(method, steps) == full


def test_fbcache_follows_the_probe():
    changes = [math.inf, 0.05, 0.079, 0.08, 0.01, math.nan, 0.0]
    assert computed_steps(methods.fbcache(), 7, changes) == [0, 3, 5]
    assert computed_steps(methods.fbcache(threshold=0), 7, [0.0] * 7) == list(range(7))
    assert computed_steps(methods.fbcache(max_run=2), 7, [0.0] * 7) == [0, 3, 6]
    assert computed_steps(methods.fbcache(max_run=0), 4, [0.0] * 4) == [0, 1, 2, 3]
    assert computed_steps(methods.fbcache(warmup=3, last=True), 7, [0.0] * 7) == [0, 1, 2, 6]


@pytest.mark.parametrize(
    ("method", "predictor", "sites", "codec", "clock", "probe"),
    [
        (methods.taylorseer(), Taylor(1, since=2), ("sublayers",), "value", "step", None),
        (
            methods.taylorseer(order=2, warmup=0, lite=True),
            Taylor(2, since=0),
            ("trunk",),
            "value",
            "step",
            None,
        ),
        (methods.taylorseer(sites="mlp"), Taylor(1, since=2), ("mlp",), "value", "step", None),
        (methods.newton(order=2, sites=["attn", "mlp"]), Newton(2), ("attn", "mlp"), None, None, None),
        (methods.interval(), Reuse(), ("auto",), None, None, None),
        (methods.fbcache(), Reuse(), ("auto",), "delta", None, Probe()),
        (methods.deepcache(branch_id=2), Reuse(), ("bracket:2",), "value", None, None),
        (methods.deepcache(sites="bracket:1"), Reuse(), ("bracket:1",), "value", None, None),
        (methods.default(), Newton(1), ("auto",), None, None, None),
    ],
)
def test_parts(method, predictor, sites, codec, clock, probe):
    assert (method.predictor, method.sites, method.codec, method.clock, method.probe) == (
        predictor, sites, codec, clock, probe,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_made_by_name_with_its_defaults(name):
    method = methods.make(name)
    assert method.name == name
    assert method.predicts
    assert method == getattr(methods, name)()
    assert method.describe().startswith(f"{name}(")
    assert method.steps is None


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_a_preset_is_documented_and_annotated(name):
    preset = getattr(methods, name)
    signature = inspect.signature(preset)
    assert signature.return_annotation == "Method"
    assert all(
        p.annotation is not p.empty and p.default is not p.empty for p in signature.parameters.values()
    )


@pytest.mark.parametrize(
    ("method", "predicts"),
    [
        (methods.interval(interval=1), False),
        (methods.newton(interval=1), False),
        (methods.taylorseer(interval=1), False),
        (methods.deepcache(interval=1), False),
        (methods.deepcache(interval=1, steps=[0]), True),
        (methods.fbcache(threshold=0), False),
        (methods.fbcache(max_run=0), False),
        (methods.interval(interval=2), True),
    ],
)
def test_methods_that_compute_everything_on_request_say_so(method, predicts):
    assert method.predicts is predicts


@pytest.mark.parametrize(
    ("preset", "options"),
    list(
        itertools.chain(
            itertools.product(
                ["interval", "newton", "taylorseer", "deepcache"],
                [{"interval": 0}, {"interval": 2.5}, {"interval": "3"}, {"warmup": -1}, {"branches": "all"}],
            ),
            itertools.product(
                ["interval", "newton", "taylorseer", "fbcache"],
                [{"codec": "fp4"}, {"sites": []}, {"sites": 3}, {"sites": [3]}, {"warmup": None}],
            ),
            itertools.product(["newton", "taylorseer"], [{"order": -1}, {"order": 99}, {"clock": "noon"}]),
            itertools.product(["fbcache"], [{"threshold": -1}, {"threshold": math.nan}, {"max_run": -1}]),
            itertools.product(
                ["deepcache"],
                [{"branch_id": -1}, {"branch_id": "x"}, {"sites": "attn"}, {"steps": [-1]}, {"steps": 3}],
            ),
        )
    ),
)
def test_bad_parameters_are_refused(preset, options):
    with pytest.raises(DcacheError, match="|".join([*options, "bracket", "codec"])):
        methods.make(preset, **options)


def test_unknown_names_and_options_list_what_there_is():
    with pytest.raises(
        DcacheError, match=r"'tailorseer' is unknown: .*taylorseer.*Did you mean 'taylorseer'\?"
    ):
        methods.make("tailorseer")
    with pytest.raises(DcacheError, match="interval has no option 'order': it takes interval, warmup"):
        methods.make("interval", order=1)


def test_the_codec_of_a_site_depends_on_its_kind_unless_it_is_said():
    runs = [Site("trunk", "trunk", 0, 3), Site("run:1-2", "run", 1, 2), Site("block:0", "block")]
    others = [Site("model", "model"), Site("attn:0", "attn"), Site("bracket:0", "bracket")]
    assert [methods.newton().codec_for(s).name for s in runs] == ["delta"] * 3
    assert [methods.newton().codec_for(s).name for s in others] == ["value"] * 3
    said = methods.newton(codec="delta:float16")
    assert {said.codec_for(s) for s in runs + others} == {parse("delta:float16")}


def test_a_method_elsewhere_is_otherwise_the_same():
    method = methods.newton()
    moved = method.with_sites(("mlp",))
    assert moved.sites == ("mlp",)
    assert moved.with_sites(method.sites) == method
    assert site_list("a") == site_list(["a"]) == ("a",)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sites": ()}, "sites"),
        ({"clock": "x"}, "clock"),
        ({"branches": None}, "branches"),
        ({"codec": "x"}, "codec"),
    ],
)
def test_a_method_is_checked_when_it_is_made(options, says):
    with pytest.raises(DcacheError, match=says):
        Method("mine", rule=lambda moment: None, **options)
