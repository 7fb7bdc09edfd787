"""The numbers that presets read, from profiles whose truth is planted, and as they were shipped."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dcache
from dcache.demo.pipeline import coefficients as shipped_coefficients
from dcache.errors import DcacheError
from dcache.methods.coefficients import numbers
from dcache.profile import FeatureTables, Profile
from dcache.search.coefficients import ALPHAS, coefficients, save

STEPS = 10


def walk(steps: int = STEPS) -> FeatureTables:
    """Features whose relative error grows by 0.1 with every evaluation of distance."""
    apart = 0.1 * np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
    return FeatureTables(np.ones((steps, steps)), apart, np.ones(steps))


def profile(**more: Any) -> Profile:
    sites = {site: {"0": {"value": walk()}} for site in ("attn:0", "mlp:0", "mlp:1")}
    return Profile(STEPS, sites, **more)


def test_smoothcache_leaves_out_what_is_below_alpha() -> None:
    expected = {
        0.05: [1] * 10,
        0.15: [1, 0, 1, 0, 1, 0, 1, 0, 1, 1],
        0.25: [1, 0, 0, 1, 0, 0, 1, 0, 0, 1],
        0.4: [1, 0, 0, 0, 1, 0, 0, 0, 1, 1],
    }
    for alpha, row in expected.items():
        found = coefficients(profile(), alpha)[0]["smoothcache"]
        assert found["table"] == {"attn": row, "mlp": row}
        assert found["tables"][f"{alpha:g}"] == found["table"]
    assert list(found["tables"]) == [f"{alpha:g}" for alpha in ALPHAS]


def test_a_planted_polynomial_and_the_ratios_are_found() -> None:
    x = np.array([0.05 * i for i in range(18)])
    changes = np.stack([x, 3 * x**4 - 2 * x**2 + 0.5], axis=1)
    ratios = np.linspace(1.0, 0.9, STEPS)
    found, missing = coefficients(
        profile(input_output_changes=changes, ratios=ratios, made={"ratios_deviation": 0.01})
    )
    assert found["teacache"]["coefficients"] == pytest.approx([3, 0, -2, 0, 0.5], abs=1e-6)
    assert found["teacache"]["r2"] == pytest.approx(1.0)
    assert (found["teacache"]["points"], found["teacache"]["inputs_between"]) == (18, [0.0, 0.85])
    assert found["magcache"] == {"ratios": [round(float(r), 6) for r in ratios], "largest_deviation": 0.01}
    assert not missing


def test_what_a_profile_does_not_tell_is_said(tmp_path: Path) -> None:
    found, missing = coefficients(profile(model="Toy"))
    assert list(found) == ["smoothcache"]
    assert list(missing) == ["teacache", "magcache"]
    assert "no list of blocks in Toy" in missing["magcache"]
    few = coefficients(profile(input_output_changes=np.array([[0.1, 0.2]] * 9)))[1]
    assert "9 observed changes are too few for a polynomial of degree 4" in few["teacache"]
    nothing = Profile(STEPS, {"trunk": {"0": {"value": walk()}}})
    with pytest.raises(DcacheError, match="the profile has no data for any preset"):
        save(nothing, tmp_path / "none.json", {})
    assert list(tmp_path.iterdir()) == []


def test_presets_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "numbers.json"
    save(profile(ratios=np.ones(STEPS), model="Toy", component="net"), path, {"pipe": "toy"}, alpha=0.25)
    about = json.loads(path.read_text())["of"]
    assert (about["model"], about["component"], about["evaluations"], about["pipe"]) == (
        "Toy",
        "net",
        10,
        "toy",
    )
    assert numbers("magcache", "ratios", path, 1) == (1.0,) * STEPS
    assert dcache.methods.magcache(ratios=path)
    assert dcache.methods.smoothcache(table=path)


@pytest.mark.slow
def test_those_of_the_demo_are_the_shipped_ones() -> None:
    from dcache.eval.subject import load
    from dcache.search.observe import observe

    shipped = json.loads(shipped_coefficients().read_text())
    subject = load("demo", device="cpu", dtype="float32")
    sites = ("trunk", "sublayers")
    with warnings.catch_warnings():
        # The polynomial explains 74 %, and it says so.
        warnings.simplefilter("ignore")
        found, _ = coefficients(observe(subject, shipped["of"]["prompts"], sites=sites, timing=False))
    assert found["teacache"]["coefficients"] == pytest.approx(shipped["teacache"]["coefficients"], rel=1e-4)
    assert found["magcache"]["ratios"] == pytest.approx(shipped["magcache"]["ratios"], abs=2e-6)
    assert found["smoothcache"]["table"] == shipped["smoothcache"]["table"]
    # The shipped tables come from means of ratios, these from ratios of means: a near tie may fall otherwise.
    rows = [
        (shipped["smoothcache"]["tables"][a][kind], row)
        for a, table in found["smoothcache"]["tables"].items()
        for kind, row in table.items()
    ]
    assert sum(one != other for one, other in rows) <= 2
