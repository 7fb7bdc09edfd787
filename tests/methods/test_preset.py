"""Types of options: refused by name, numbers of other libraries taken as Python's."""

import json

import numpy as np
import pytest
import torch

import dcache
from dcache import DcacheError, Schedule, methods
from tests.engine.tiny_models import ThreeSublayers, Toy, walk

RATIOS = {"magcache": {"ratios": [1.0, 1.0]}, "teacache": {"coefficients": [1.0, 0.0]}}
# Nothing that an option takes: neither a number, a list, a path nor one of dcache's classes.
ODD = (object(), b"x", lambda: 1, 1j)


@pytest.mark.parametrize("value", ODD, ids=["object", "bytes", "function", "complex"])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("deepcache", "sites"),
        *((name, "profile") for name in ("bac", "cachequant", "ertacache", "profilingdit", "fitted")),
        *((name, "steps") for name in ("cachequant", "ertacache", "deepcache", "profilingdit")),
        ("ertacache", "sigmas"),
        ("profilingdit", "background"),
        ("hicache", "scale"),
        ("teacache", "coefficients"),
        ("magcache", "ratios"),
        ("pab", "window"),
        ("interval", "sites"),
    ],
)
def test_an_option_of_the_wrong_type_is_refused_by_its_name(name, option, value):
    beside = {"profilingdit": {"background": [0]}} if option == "steps" else {}
    with pytest.raises(DcacheError, match=rf"\b{option}\b.* (must be|expected|are) "):
        methods.make(name, **{**beside.get(name, {}), option: value})


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("hicache", {"scale": float("inf")}, "scale must be a number above 0 and at most 10, got inf"),
        ("hicache", {"scale": 1e20}, "scale must be a number above 0 and at most 10, got 1e+20"),
        ("fastercache", {"weight": float("inf")}, "weight must be a finite number, got inf"),
        (
            "magcache",
            {"ratios": [0] * 5},
            "ratios of magcache are ratios of magnitudes, above 0, and one is 0",
        ),
        (
            "magcache",
            {"ratios": [1, -1]},
            "ratios of magcache are ratios of magnitudes, above 0, and one is -1",
        ),
        ("teacache", {"coefficients": []}, "must be a list of at least 1 number, got 0"),
        ("interval", {"codec": "delta:"}, "codec 'delta:' is unknown"),
        ("interval", {"sites": ["model", "trunk"]}, "site 'model' is the whole model"),
        ("deepcache", {"sites": ["bracket:0", "bracket:1"]}, "expected sites='bracket:N'"),
        ("deepcache", {"sites": []}, "expected sites='bracket:N'"),
        ("pab", {"window": (float("nan"), 1)}, "the window's start must be a number, got nan"),
        ("fitted", {"profile": 3}, "profile of fitted must be a Profile or the path of its file, got 3"),
    ],
)
def test_values_that_mean_nothing_are_refused(name, options, says):
    with pytest.raises(DcacheError) as caught:
        methods.make(name, **options)
    assert says in str(caught.value)


def test_deepcache_takes_its_bracket_as_a_list():
    assert methods.deepcache(sites=["bracket:1"]).sites == methods.deepcache(branch_id=1).sites


@pytest.mark.parametrize(
    ("name", "plain", "other"),
    [
        ("interval", {"interval": 3}, {"interval": np.int64(3)}),
        ("interval", {"interval": 3}, {"interval": torch.tensor(3)}),
        ("interval", {"last": True}, {"last": np.bool_(True)}),
        ("hicache", {"scale": 0.5, "order": 2}, {"scale": np.float32(0.5), "order": np.int8(2)}),
        (
            "delta_dit",
            {"blocks": 0.5, "boundary": 3},
            {"blocks": np.float64(0.5), "boundary": torch.tensor(3)},
        ),
        ("deepcache", {"steps": [0, 4]}, {"steps": np.array([0, 4])}),
        ("deepcache", {"steps": [0, 4]}, {"steps": [np.int64(0), torch.tensor(4)]}),
        ("teacache", {"coefficients": [2.0, 1.0]}, {"coefficients": np.array([2.0, 1.0])}),
        ("pab", {"window": (100.0, 850.0)}, {"window": (np.float32(100), torch.tensor(850.0))}),
        ("profilingdit", {"background": [0, 2]}, {"background": torch.tensor([0, 2])}),
    ],
)
def test_numbers_of_other_libraries_are_pythons(name, plain, other):
    method, same = methods.make(name, **plain), methods.make(name, **other)
    assert same == method
    assert same.describe() == method.describe()
    assert json.dumps(dict(same.parameters)) == json.dumps(dict(method.parameters))


@pytest.mark.parametrize("wrong", [np.float32(3.5), torch.tensor(True), torch.tensor([3]), np.bool_(True)])
def test_other_libraries_values_that_are_no_whole_number_are_refused(wrong):
    with pytest.raises(DcacheError, match="interval must be a whole number of at least 1"):
        methods.interval(interval=wrong)


def test_the_trace_of_a_method_with_numpys_numbers_is_json(tmp_path):
    toy = dcache.enable(Toy(), "newton", interval=np.int64(2), order=np.int64(1), warmup=torch.tensor(2))
    walk(toy, [4, 3, 2, 1])
    traced = dcache.trace(toy)
    assert Schedule.load(traced.save(tmp_path / "a.schedule.json")) == traced


TABLE = {"attn": [1, 0] * 4}


def test_a_table_for_more_evaluations_than_a_run_has_is_said_at_its_end():
    toy = dcache.enable(Toy([ThreeSublayers() for _ in range(2)]), "smoothcache", table=TABLE)
    for _ in range(2):
        # The second run's first call ends the first run.
        walk(toy, [float(t) for t in range(8, 0, -1)])
    short = [float(t) for t in range(6, 0, -1)]
    walk(toy, short)
    with pytest.warns(dcache.DcacheWarning, match="is for 8 evaluations, and this run of Toy ended after 6"):
        walk(toy, short)


def test_a_table_of_the_wrong_length_names_the_option_to_change():
    toy = dcache.enable(Toy([ThreeSublayers() for _ in range(2)]), "smoothcache", table=TABLE)
    dcache.step(toy, 0, steps=10)
    with pytest.raises(DcacheError, match=r"table of smoothcache is for 8 evaluations .* give table= for 10"):
        walk(toy, [1.0])
