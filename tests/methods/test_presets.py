"""Presets: the parts each one chooses, the published step lists, and refusals."""

import inspect
import itertools
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dcache import methods
from dcache.errors import DcacheError
from dcache.method import SUBLAYERS_FIRST
from dcache.methods.expected_change import Sensitivities
from dcache.methods.output_rate import OutputRate
from dcache.methods.preset import FAMILIES, About
from dcache.methods.seacache import WienerFiltered
from dcache.predictors import Chebyshev, Foca, GuidedLine, Hermite, Linear, Newton, Reuse, Taylor
from dcache.probes import Probe, SinceStep
from dcache.profile import FeatureTables, Latencies, Profile
from tests.rules import computed_steps

NAMES = list(methods.available())
# What the presets need that cannot do without.
LINE = np.arange(1.0, 10.0)
SEEN = FeatureTables(np.outer(LINE, LINE), np.abs(LINE[:, None] - LINE[None]), LINE)
PROFILE = Profile(9, {"model": {"0": {"value": SEEN}}, "trunk": {"0": {"delta": SEEN}}})
NEEDS = {
    "fitted": {"profile": PROFILE},
    "bac": {"table": {"attn:0": [0, 2], "mlp:1": [0]}},
    "profilingdit": {"background": [3, 1, 2, 5]},
    "yume": {"blocks": [3, 1, 2, 5]},
    "cachequant": {"steps": [0, 3]},
    "ertacache": {"steps": [0, 3]},
    "teacache": {"coefficients": (1.0, 0.0)},
    "magcache": {"ratios": [1.0, 0.9]},
    "sencache": {"sensitivities": [0.2, 3.0, 1.0, 0.8, 1.0, 2.0]},
    "smoothcache": {"table": {"attn": [1, 0]}},
}


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
        (methods.hicache(), 50, [0, 1, 2, 8, 14, 20, 26, 32, 38, 44]),
        (methods.foca(interval=5, last=True), 20, [0, 1, 2, 7, 12, 17, 19]),
        (methods.spectrum(), 50, [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 25, 31, 38, 46]),
        (methods.spectrum(window=3, growth=0, warmup=1, last=True), 9, [0, 3, 6, 8]),
        (methods.magcache(ratios=[1.0, 1.0], max_run=3, retention=0.2), 12, [0, 1, 5, 9]),
        (methods.magcache(ratios=[1.0, 1.0], retention=0.0, last=True), 8, [0, 6, 7]),
        (methods.policy_default(), 10, [0, 4, 8, 9]),
        (methods.policy_default(interval=3), 5, [0, 3, 4]),
        (methods.fitted(PROFILE), 9, [0, 1, 4, 7]),
        (methods.fitted(PROFILE, steps=[4, 2]), 9, [0, 2, 4]),
        (methods.fitted(PROFILE, interval=2, warmup=3), 9, [0, 1, 2, 4, 6, 8]),
        (methods.profilingdit([1]), 20, [0, 6, 12, 18]),
        (methods.yume([1]), 10, [0, 4, 8]),
        (methods.profilingdit([1], t_max=6, t_min=2), 12, [0, 6, 10]),
        (methods.profilingdit([1], t_max=4, start=3), 12, [0, 1, 2, 3, 7, 11]),
        (
            methods.profilingdit([1], steps=[6, 18, 26, 32, 38, 42, 46, 48], start=6),
            50,
            [*range(6), 6, 18, 26, 32, 38, 42, 46, 48],
        ),
    ],
)
def test_computed_steps(method, steps, full):
    assert computed_steps(method, steps) == full


def test_fbcache_follows_the_probe():
    changes = [math.inf, 0.05, 0.079, 0.08, 0.01, math.nan, 0.0]
    assert computed_steps(methods.fbcache(), 7, changes) == [0, 3, 5]
    assert computed_steps(methods.fbcache(threshold=0), 7, [0.0] * 7) == list(range(7))
    assert computed_steps(methods.fbcache(max_run=2), 7, [0.0] * 7) == [0, 3, 6]
    assert computed_steps(methods.fbcache(max_run=1), 5, [0.0] * 5) == [0, 2, 4]
    assert computed_steps(methods.fbcache(warmup=3, last=True), 7, [0.0] * 7) == [0, 1, 2, 6]


@pytest.mark.parametrize(
    ("method", "predictor", "sites", "codec", "clock", "probe"),
    [
        (methods.taylorseer(), Taylor(1, since=2), (SUBLAYERS_FIRST,), "value", "step", None),
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
        (methods.adaptive(), GuidedLine(0.25), ("auto",), "delta", None, Probe()),
        (methods.deepcache(branch_id=2), Reuse(), ("bracket:2",), "value", None, None),
        (methods.deepcache(sites="bracket:1"), Reuse(), ("bracket:1",), "value", None, None),
        (methods.default(), Newton(1), ("auto",), None, None, None),
        (methods.policy_default(), Reuse(), ("auto",), None, None, None),
        (methods.hicache(), Hermite(1, 0.5, since=2), (SUBLAYERS_FIRST,), "value", "step", None),
        (methods.foca(), Foca(), (SUBLAYERS_FIRST,), "value", "step", None),
        (methods.spectrum(), Chebyshev(4, 0.1, 0.5, 50, 15), ("auto",), "value", "step", None),
        (methods.delta_dit(), Reuse(), ("front:75%", "rear:75%"), "delta", None, None),
        (methods.delta_dit(blocks=5), Reuse(), ("front:5", "rear:5"), "delta", None, None),
        (methods.dbcache(), Reuse(), ("middle:8-0",), "delta", None, Probe("front", 8)),
        (methods.dbcache(1, 2, order=2), Taylor(2), ("middle:1-2",), "delta", "step", Probe("front", 1)),
        (
            methods.teacache(coefficients="flux"),
            Reuse(),
            ("trunk",),
            "delta",
            None,
            Probe("modulated", indicator=SinceStep),
        ),
        (methods.magcache(**NEEDS["magcache"]), Reuse(), ("trunk",), "delta", None, None),
        (methods.easycache(), Reuse(), ("model",), "delta", None, Probe("input", indicator=OutputRate)),
        (methods.seacache(), Newton(1), ("auto",), None, "step", Probe("input", indicator=WienerFiltered)),
        (methods.seacache(order=0), Reuse(), ("auto",), None, None, Probe("input", indicator=WienerFiltered)),
        (
            methods.sencache(**NEEDS["sencache"]),
            Reuse(),
            ("trunk",),
            "delta",
            None,
            Probe("input", indicator=Sensitivities((0.2, 3.0, 1.0, 0.8, 1.0, 2.0))),
        ),
        (methods.bac(**NEEDS["bac"]), Reuse(), ("attn:0", "mlp:1"), "value", None, None),
        (methods.profilingdit([3, 1, 2, 5]), Reuse(), ("run:1-3", "block:5"), "delta", None, None),
        (methods.yume([3, 1, 2, 5]), Reuse(), ("run:1-3", "block:5"), "delta", None, None),
        (methods.pab(), Reuse(), ("attn", "cross_attn?"), "value", None, None),
        (methods.pab(cross_attn=None, mlp=4), Reuse(), ("attn", "mlp?"), "value", None, None),
        (methods.tgate(), Reuse(), ("guidance", "cross_attn?", "attn?"), "value", None, None),
        (methods.fastercache(), Linear(0.5), ("guidance", "attn?"), "value", None, None),
        (
            methods.smoothcache({"attn1": [1], "attn2": [1]}),
            Reuse(),
            ("attn", "cross_attn"),
            "value",
            None,
            None,
        ),
    ],
)
def test_parts(method, predictor, sites, codec, clock, probe):
    assert (method.predictor, method.sites, method.codec, method.clock, method.probe) == (
        predictor, sites, codec, clock, probe,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_made_by_name_with_its_defaults(name):
    method = methods.make(name, **NEEDS.get(name, {}))
    assert method.name == name
    # What `causal` leaves out is read by nothing, so that it is exact; it predicts with a threshold.
    assert method.predicts == (name != "causal")
    assert method == getattr(methods, name)(**NEEDS.get(name, {}))
    assert method.describe().startswith(f"{name}(")
    assert method.steps == {"smoothcache": 2, "fitted": 9}.get(name)
    assert bool(methods.available()[name].needs) == (name in NEEDS)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_preset_is_can_be_read_without_making_it(name):
    told = methods.available()[name]
    assert isinstance(told, About)
    assert str(told) == told.summary == inspect.getdoc(getattr(methods, name)).partition("\n")[0]
    assert told.summary.endswith(".")
    assert told.sites
    assert told.families
    assert set(told.families) <= set(FAMILIES)
    # Named after its paper, with a year; a paper is cited by its number.
    assert told.paper
    assert "arXiv" not in told.paper or told.paper.rpartition("arXiv ")[2].replace(".", "").isdigit()


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_one_short_file(name):
    source = Path(sys.modules[getattr(methods, name).__module__].__file__)
    assert source.name == f"{name}.py"
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 80


def test_every_file_of_a_preset_is_registered():
    files = {path.stem for path in Path(methods.__file__).parent.glob("*.py")}
    helpers = {
        "__init__",
        "coefficients",
        "expected_change",
        "language_models",
        "options",
        "output_rate",
        "preset",
        "registry",
        "replay",
        "resolve",
        "row_models",
    }
    assert files - helpers == set(NAMES)
    assert set(NAMES) <= set(methods.__all__)


def test_siblings_go_with_the_site_guidance():
    assert {
        name: m.uncond_from for name in NAMES if (m := methods.make(name, **NEEDS.get(name, {}))).uncond_from
    } == {
        "tgate": "drop",
        "fastercache": "bands",
    }


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
        (methods.adaptive(), True),
        (methods.adaptive(share=1.0), False),
        (methods.adaptive(threshold=0), False),
        (methods.tuned(), True),
        (methods.policy_default(interval=1), False),
        (methods.interval(interval=2), True),
        (methods.hicache(interval=1), False),
        (methods.foca(interval=1), False),
        (methods.spectrum(window=1.5, growth=0), False),
        (methods.spectrum(window=1), True),
        (methods.spectrum(growth=0), True),
        (methods.delta_dit(interval=1), False),
        (methods.dbcache(threshold=0), False),
        (methods.teacache(0, "flux"), False),
        (methods.magcache(threshold=0, ratios=[1, 1]), True),
        (methods.magcache(ratios=[1, 1], retention=1.0), False),
        (methods.magcache(ratios=[1, 1], retention=0.99), True),
        (methods.easycache(threshold=0), False),
        (methods.sencache(0, NEEDS["sencache"]["sensitivities"], early=0), False),
        (methods.sencache(0, NEEDS["sencache"]["sensitivities"]), True),
        (methods.pab(attn=1, cross_attn=None), False),
        (methods.pab(attn=1), True),
        (methods.tgate(gate=None, attn_interval=1), False),
        (methods.tgate(gate=None), True),
        (methods.tgate(attn_interval=1), True),
        (methods.fastercache(attn_interval=1, guidance_interval=1), False),
        (methods.fastercache(attn_interval=1), True),
        (methods.smoothcache({"attn": [1, 1]}), False),
        (methods.bac({"attn:0": [0, 1]}, steps=2), False),
        (methods.bac({"attn:0": [0, 1], "mlp:0": [0]}, steps=2), True),
        (methods.bac({"attn:0": [0, 1]}), True),
        (methods.fitted(PROFILE, interval=1), False),
        (methods.fitted(PROFILE, steps=range(8)), True),
        (methods.profilingdit([1], t_max=1), False),
        (methods.yume([1], interval=1), False),
        (methods.profilingdit([1], t_max=1, steps=[0]), True),
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
            itertools.product(
                ["hicache", "foca", "delta_dit"],
                [{"interval": 0}, {"interval": 2.5}, {"warmup": -1}, {"branches": "all"}],
            ),
            itertools.product(
                ["hicache"],
                [{"order": -1}, {"scale": 0.0}, {"scale": "1"}, {"clock": "noon"}, {"codec": "x"}],
            ),
            itertools.product(
                ["spectrum"],
                [
                    *({"window": w} for w in (0.5, "2", math.inf, True)),
                    *({"growth": -0.1}, {"warmup": 1.5}, {"anchors": 0}, {"anchors": 4.0}),
                    *({"degree": 7}, {"ridge": -0.1}, {"blend": 1.5}, {"blend": math.nan}, {"steps": 0}),
                ],
            ),
            itertools.product(
                ["adaptive"],
                [
                    {"share": 0},
                    {"share": 1.5},
                    {"share": 0.5, "max_run": 2},
                    {"threshold": -1},
                    {"difference": -1},
                ],
            ),
            itertools.product(
                ["tuned"],
                [{"speedup": 1.0}, {"speedup": 0.5}, {"speedup": 2.0, "quality": 40.0}, {"quality": -1.0}],
            ),
            itertools.product(
                ["delta_dit"],
                [{"blocks": 0}, {"blocks": 1.5}, {"blocks": "3"}, {"boundary": -1}, {"boundary": 1.0}],
            ),
            itertools.product(
                ["dbcache"],
                [
                    {"front": 0},
                    {"front": 1.5},
                    {"back": -1},
                    {"back": None},
                    {"threshold": -1},
                    {"order": 1.5},
                ],
            ),
            itertools.product(["dbcache", "seacache"], [{"max_run": -1}, {"warmup": 1.0}, {"order": -1}]),
            itertools.product(
                ["sencache"],
                [
                    *({"threshold": -1.0, **NEEDS["sencache"]}, {"early": 1.5, **NEEDS["sencache"]}),
                    *({"early_threshold": -1.0, **NEEDS["sencache"]}, {"max_run": -1, **NEEDS["sencache"]}),
                    *(
                        {"sensitivities": wrong}
                        for wrong in (None, [1.0, 2.0], [1.0] * 4, [0.5, math.nan, 1])
                    ),
                ],
            ),
            itertools.product(["easycache", "seacache"], [{"threshold": -1}, {"threshold": math.nan}]),
            itertools.product(
                ["pab"],
                [{"attn": 0}, {"attn": None}, {"cross_attn": 1.5}, {"mlp": "2"}, {"window": 3}],
            ),
            itertools.product(
                ["bac"],
                [{"table": {}}, {"table": {"attn:0": "01"}}, {"table": {"attn:0": [0, -1]}}, {"table": [1]}],
            ),
            itertools.product(
                ["profilingdit"], [{"background": b} for b in ([], [-1], [1.0], ["1"], [True])]
            ),
            itertools.product(
                ["fitted"],
                [
                    {"interval": 0, **NEEDS["fitted"]},
                    {"order": 3, **NEEDS["fitted"]},
                    {"order": 0, **NEEDS["fitted"]},
                    {"steps": [9], **NEEDS["fitted"]},
                    {"steps": "1", **NEEDS["fitted"]},
                    {"steps": 3, **NEEDS["fitted"]},
                    {"warmup": 0, **NEEDS["fitted"]},
                    {"ridge": -1.0, **NEEDS["fitted"]},
                    {"sites": "mlp", **NEEDS["fitted"]},
                    {"speedup": 2.0, **NEEDS["fitted"]},
                ],
            ),
            (("pab", {"window": wrong}) for wrong in ((1, 2, 3), (5, 4), ("a", 3), (math.nan, 3))),
            itertools.product(
                ["tgate"], [{"gate": -1}, {"gate": 1.5}, {"attn_interval": 0}, {"late_interval": None}]
            ),
            itertools.product(
                ["fastercache"],
                [{"attn_interval": 0}, {"guidance_interval": 0}, {"weight": None}, {"weight": math.nan}],
            ),
            itertools.product(
                ["fastercache"], [{"attn_below": "x"}, {"guidance_below": math.nan}, {"branches": "all"}]
            ),
        )
    ),
)
def test_bad_parameters_are_refused(preset, options):
    with pytest.raises(DcacheError, match="|".join([*options, "bracket", "codec", "window", "interval"])):
        methods.make(preset, **options)


def test_unknown_names_and_options_list_what_there_is():
    with pytest.raises(
        DcacheError, match=r"'tailorseer' is unknown: .*taylorseer.*Did you mean 'taylorseer'\?"
    ):
        methods.make("tailorseer")
    with pytest.raises(DcacheError, match="interval has no option 'order': it takes interval, warmup"):
        methods.make("interval", order=1)


# Another valid value of each parameter; those that differ by preset are given with its name.
OTHER = {
    ("yume", "blocks"): [1], ("yume", "profile"): PROFILE, ("yume", "interval"): 3,
    ("causal", "max_run"): 5, ("causal", "share"): True,
    "interval": 4, "warmup": 4, "order": 2, "sites": "model", "codec": "value:int8", "clock": "timestep",
    "branches": "together", "max_run": 3, "lite": True, "scale": 0.7, "front": 2, "back": 1, "blocks": 3,
    "boundary": 5, "threshold": 0.3, "retention": 0.3, "attn": 3, "cross_attn": 3, "mlp": 3,
    "window": (200.0, 700.0), "gate": 5, "attn_interval": 3, "late_interval": 2, "guidance_interval": 3,
    "weight": 0.4, "attn_below": 500.0, "guidance_below": 500.0, "steps": [0, 2], "branch_id": 1,
    ("tuned", "speedup"): 3.0, ("tuned", "quality"): 45.0,
    "ridge": 0.2, "t_max": 5, "t_min": 2, "start": 1, "share": 0.4, "computes": 3, "union": 2, "metric": "l2",
    "sigmas": (1.0, 0.7, 0.3, 0.0), "coefficients": "flux", "ratios": [1.0, 0.8], "background": [1, 2],
    "early": 4, "early_threshold": 0.1, "sensitivities": (0.5, 2.0, 2.0),
    ("sencache", "branches"): "separate", "growth": 0.5, "degree": 3, "anchors": 8, "blend": 1.0,
    "difference": 0.5, ("spectrum", "window"): 3, ("spectrum", "steps"): 20,
    ("fitted", "profile"): replace(PROFILE, prompts=2), ("fitted", "speedup"): 1.5,
    ("fitted", "sites"): "model", ("easycache", "branches"): "separate",
    ("bac", "table"): {"attn:0": [0, 3], "mlp:1": [0]}, ("bac", "steps"): 9, ("bac", "profile"): PROFILE,
    ("cachequant", "profile"): PROFILE, ("cachequant", "steps"): [0, 4], ("ertacache", "profile"): PROFILE,
    ("ertacache", "steps"): [0, 4], ("ertacache", "codec"): "value", ("profilingdit", "profile"): PROFILE,
    ("policy_default", "interval"): 3, ("smoothcache", "table"): {"attn": [1, 1]},
    ("deepcache", "sites"): "bracket:1",
}  # fmt: skip
# Parameters that need others beside them.
BESIDE = {
    ("adaptive", "max_run"): {"threshold": 0.1},
    ("fitted", "speedup"): {
        "profile": replace(PROFILE, latencies=Latencies(1.0, {"model": 0.1, "trunk": 0.1}, {"trunk": 0.0}))
    },
    ("ertacache", "sigmas"): {"steps": [0, 2]},
}


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in NAMES for option in inspect.signature(getattr(methods, name)).parameters],
)
def test_methods_that_differ_in_any_option_are_described_differently(name, option):
    given = {**NEEDS.get(name, {}), **BESIDE.get((name, option), {})}
    default = given.get(option, inspect.signature(getattr(methods, name)).parameters[option].default)
    other = not default if isinstance(default, bool) else OTHER.get((name, option), OTHER.get(option))
    method, changed = methods.make(name, **given), methods.make(name, **{**given, option: other})
    assert changed.parameters[option] is other
    assert changed.describe() != method.describe()
    assert f"{option}=" in changed.describe()
    assert len(changed.describe()) < 250


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_describes_itself_by_what_was_given(name):
    given = NEEDS.get(name, {})
    first = next(iter(inspect.signature(getattr(methods, name)).parameters), None)
    shown = re.findall(r"(?:\(|, )(\w+)=", methods.make(name, **given).describe())
    assert set(shown) == {*given, *([first] if first else [])}
