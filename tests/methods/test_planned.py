"""Presets that plan from a profile: the same as their planners, from a value or a file; what is missing."""

import json

import numpy as np
import pytest

import dcache
from dcache import methods
from dcache.errors import DcacheError
from dcache.eval.specs import PROFILE, parse
from dcache.schedulers import planners as plans
from tests.pipelines import SHAPES, STEPS
from tests.rules import computed_steps
from tests.schedulers.planners.small_profiles import drifting, profile, rows

SITES = ("attn:0", "mlp:0", "mlp:1")
TABLE = {"attn:0": [0, 3], "mlp:1": [0, 2, 5]}
R = {"block:0": 0.9, "block:1": 0.2, "block:2": 0.3, "block:3": 0.1}


@pytest.fixture(scope="module")
def seen():
    return profile({s: drifting(STEPS, i) for i, s in enumerate(SITES)}, attention=R)


@pytest.fixture
def write(tmp_path):
    def make(content):
        path = tmp_path / "table.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize(
    "options", [{"computes": 3}, {"computes": 2, "union": 2}, {"metric": "l1", "computes": 4}]
)
def test_bac_updates_where_its_planner_says(seen, options, tmp_path):
    expected = rows(plans.make("bac", seen, **options))
    method = methods.bac(profile=seen, **options)
    assert method.steps == STEPS
    assert {site: computed_steps(method, STEPS, site=site) for site in method.sites} == expected
    assert method == methods.bac(profile=str(seen.save(tmp_path / "p.safetensors")), **options)
    assert method == methods.bac(expected, steps=STEPS)


def test_bacs_table_in_all_its_spellings(write):
    made = [methods.bac(t) for t in (TABLE, write(TABLE), str(write({"bac": {"table": TABLE}})))]
    assert made[0] == made[1] == made[2]
    assert made[0].sites == ("attn:0", "mlp:1")
    with pytest.raises(DcacheError, match=r"no bac\.table"):
        methods.bac(write({"attn": [0]}))


def test_the_run_computes_what_the_table_lists():
    shape = SHAPES["pixart"]
    pipe = dcache.enable(shape.build(), "bac", table=TABLE, steps=STEPS)
    shape.run(pipe)
    assert rows(dcache.trace(pipe)) == TABLE
    with pytest.raises(DcacheError, match=f"{STEPS}"):
        shape.run(pipe, num_inference_steps=STEPS + 2)


def test_profilingdit_takes_the_blocks_that_its_planner_labels(seen, tmp_path):
    method = methods.profilingdit(profile=seen, share=0.75, t_max=3, t_min=2)
    assert method.sites == ("run:1-3",)
    assert methods.profilingdit(profile=seen, share=0.5).sites == ("block:1", "block:3")
    planned = rows(plans.make("profilingdit", seen, share=0.75, t_max=3, t_min=2))
    assert {"run:1-3": computed_steps(method, STEPS)} == planned
    assert method == methods.profilingdit(
        profile=seen.save(tmp_path / "p.safetensors"), share=0.75, t_max=3, t_min=2
    )


def test_intervals_that_shrink_need_the_number_of_evaluations():
    assert computed_steps(methods.profilingdit([1], t_max=3), 7, known=False) == [0, 3, 6]
    assert computed_steps(methods.profilingdit([1], t_max=3, t_min=1), 7, known=False) == list(range(7))


@pytest.mark.parametrize(("name", "option"), [("bac", "table"), ("profilingdit", "background")])
def test_without_anything_the_error_says_what_to_observe(name, option):
    with pytest.raises(
        DcacheError, match=rf"{name} needs profile=.* or {option}=.*dcache calibrate PIPE --out"
    ):
        methods.make(name)
    with pytest.raises(DcacheError, match=r"cannot read the profile nowhere\.safetensors"):
        methods.make(name, profile="nowhere.safetensors")
    assert methods.available()[name].needs


def test_a_profile_that_lacks_what_is_needed_is_refused():
    bare = profile({"trunk": drifting(STEPS, 0)})
    with pytest.raises(DcacheError, match="bac plans for sublayers"):
        methods.bac(profile=bare)
    with pytest.raises(DcacheError, match="profilingdit plans from attention statistics"):
        methods.profilingdit(profile=bare)


def test_evaluations_beyond_the_run_are_refused():
    with pytest.raises(DcacheError, match="beyond the 5 of the run"):
        methods.bac(TABLE, steps=5)


def test_a_shipped_profile_is_used_where_none_is_given(seen, tmp_path):
    numbers = tmp_path / "coefficients.json"
    (tmp_path / "other").mkdir()
    seen.save(tmp_path / PROFILE)
    (choice,) = parse("bac:computes=3", numbers)
    assert choice.method == methods.bac(profile=seen, computes=3)
    assert "profile='FILE.safetensors'" in choice.call
    assert choice.note == "profile of the shipped model; for yours: dcache calibrate"
    given = seen.save(tmp_path / "other" / "p.safetensors")
    (choice,) = parse(f"profilingdit:profile={given}", numbers)
    assert choice.note == ""
    with pytest.raises(DcacheError, match="profilingdit needs profile="):
        parse("profilingdit")


def test_the_plan_minds_where_a_sublayer_moves():
    # attn:0 jumps at 2, mlp:0 at 4.
    features = {"attn:0": np.ones((STEPS, 3)), "mlp:0": np.ones((STEPS, 3))}
    features["attn:0"][2:, 0], features["mlp:0"][4:, 0] = 4.0, 4.0
    shape = SHAPES["pixart"]
    pipe = dcache.enable(shape.build(), methods.bac(profile=profile(features), computes=2))
    shape.run(pipe)
    assert rows(dcache.trace(pipe)) == {"attn:0": [0, 2], "mlp:0": [0, 4]}
