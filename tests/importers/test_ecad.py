"""ECAD's files: polarity, names, single blocks, provenance, refusals; the export and the round trips."""

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dcache.errors import DcacheError
from dcache.importers import Imported, read
from dcache.importers.ecad import convert
from dcache.importers.ecad_export import export
from dcache.importers.imported import Options
from dcache.schedule import Plan, Rows, Schedule
from dcache.sites.discovery import discover
from tests.importers.published import FLUX, PIXART, SINGLE, ecad

SITES = {"attn1": "attn", "attn2": "cross_attn", "ff": "mlp"}
FLUX_SITES = {"full_attn": "attn", "full_ff": "mlp", "full_ff_context": "mlp.context"}


def imported(content: Any) -> Imported:
    return convert(content, Options())


def schedule_of(content: Any) -> Schedule:
    found = imported(content).schedule
    assert found is not None
    return found


def rows_of(schedule: Schedule) -> Rows:
    return schedule.components[""].rows["*"]


def bits_of(content: dict[str, Any]) -> Any:
    return content["cache_schedule"]["schedule"]


def test_true_computes_and_the_first_step_always_does() -> None:
    content = ecad(random.Random(0), 20, 28)
    schedule = schedule_of(content)
    rows = rows_of(schedule)
    assert (schedule.steps, len(rows)) == (20, 84)
    for t in range(20):
        for i in range(28):
            for component, kind in SITES.items():
                assert rows[f"{kind}:{i}"][t] == (t == 0 or bits_of(content)[f"{t:03}"][str(i)][component])


def test_all_true_computes_all_and_all_false_only_the_first_step() -> None:
    for value in (True, False):
        content = ecad(random.Random(0), 4, 2)
        for step in bits_of(content).values():
            for block in step.values():
                block.update(dict.fromkeys(PIXART, value))
        assert set(rows_of(schedule_of(content)).values()) == {(True, value, value, value)}


def test_dead_bits_of_the_first_step_are_told() -> None:
    content = ecad(random.Random(0), 4, 2)
    for block in bits_of(content)["000"].values():
        block.update(attn1=True, attn2=False, ff=True)
    (note,) = imported(content).notes
    assert note.startswith("2 of 6 sites are not computed in the file's first evaluation")


def test_where_it_comes_from_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "fast.json"
    path.write_text(json.dumps(ecad(random.Random(0), 4, 2)))
    found = read(path).schedule
    assert found is not None
    assert (found.method, found.resolution, found.guidance) == ("ecad", (256, 128), 4.5)
    assert found.components[""].model == "PixArtTransformer2DModel"
    assert found.measured["imported"] == {
        "format": "ecad",
        "file": "fast.json",
        "name": "candidate 7",
        "attributes": {"generation": 358},
        "macs": 1175355260928,
    }
    assert Schedule.load(found.save(tmp_path / "out.json")) == found


def projected(bits: list[dict[str, bool]]) -> list[object]:
    """What a single block of ECAD adds in each step, as the versions of attention and MLP that made it."""
    attn = mlp = out = None
    seen: list[object] = []
    for t, step in enumerate(bits):
        attn = t if attn is None or step["single_attn"] else attn
        mlp = t if mlp is None or step["single_proj_mlp"] else mlp
        out = (attn, mlp) if out is None or step["single_proj_out"] else out
        seen.append(out)
    return seen


def test_a_single_block_is_computed_exactly_where_what_it_adds_changes() -> None:
    content = ecad(random.Random(1), 20, 3, 40)
    found = imported(content)
    assert found.schedule is not None
    rows = rows_of(found.schedule)
    partly = 0
    for i in range(40):
        bits = [bits_of(content)[f"{t:03}"][f"single_{i}"] for t in range(20)]
        adds = projected(bits)
        changes = (True, *(adds[t] != adds[t - 1] for t in range(1, 20)))
        assert rows[f"fused:{3 + i}"] == changes
        partly += sum(set(bits[t].values()) != {changes[t]} for t in range(1, 20))
    assert found.notes[0].startswith(f"{partly} times")


def test_names_are_those_of_the_model() -> None:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    found = schedule_of(ecad(random.Random(0), 5, 2, 3))
    plan = found.components[""]
    assert plan.model == type(model).__name__
    assert {site.name for site in discover(model).select(plan.sites)} == set(plan.sites)
    assert len(plan.sites) == len(discover(model).sublayers) == 9


@pytest.mark.parametrize("singles", [None, 4])
def test_there_and_back_is_the_same_schedule(singles: int | None) -> None:
    for seed in range(5):
        schedule = schedule_of(ecad(random.Random(seed), 9, 5, singles))
        again = schedule_of(json.loads(json.dumps(export(schedule))))
        assert again.canonical().components == schedule.canonical().components
        assert again.digest() == schedule.digest()
        assert (again.steps, again.resolution, again.guidance) == (9, (256, 128), 4.5)


def test_back_and_there_is_the_same_file_but_for_the_first_step() -> None:
    content = ecad(random.Random(2), 9, 5)
    expected = copy.deepcopy(bits_of(content))
    for block in expected["000"].values():
        block.update(dict.fromkeys(PIXART, True))
    again = export(schedule_of(content))
    assert bits_of(again) == expected
    assert again["config"] == content["config"]
    about, told = dict(again["cache_schedule"]), dict(content["cache_schedule"])
    for table in (about, told):
        del table["schedule"], table["attributes"]
    told["name"] = about["name"] = "a"
    assert about == told


def test_a_single_block_that_is_whole_in_every_step_comes_back_as_it_was() -> None:
    draw = random.Random(3)
    content = ecad(draw, 9, 2, 3)
    for t, step in enumerate(bits_of(content).values()):
        for name, block in step.items():
            whole = t == 0 or draw.random() < 0.5
            block.update(dict.fromkeys(block, whole) if name.startswith("single") or not t else {})
    found = imported(content)
    assert found.notes == ()
    assert found.schedule is not None
    assert bits_of(export(found.schedule)) == bits_of(content)


def test_what_has_no_site_is_always_computed() -> None:
    part = Schedule.of_steps([0, 2], 4, sites=["attn:1"])
    bits = bits_of(export(part, "pixart", 3))
    assert set(bits["001"]) == {"0", "1", "2"}
    off = [(t, i, c) for t, step in bits.items() for i, block in step.items() for c in PIXART if not block[c]]
    assert off == [("001", "1", "attn1"), ("003", "1", "attn1")]
    # Where the schedule leaves the first evaluation to the lack of a history, theirs says so.
    late = export(Schedule.of_steps([2], 3, sites=["attn:0"]), "pixart")
    assert [step["0"]["attn1"] for step in bits_of(late).values()] == [True, False, True]
    flux = export(part, "flux", 2, 1)["cache_schedule"]
    assert (flux["num_blocks"], flux["num_single_blocks"]) == (2, 1)
    assert set(flux["schedule"]["001"]["single_0"].values()) == {True}
    assert set(flux["schedule"]["001"]["0"]) == set(FLUX)
    assert set(flux["schedule"]["001"]["single_0"]) == set(SINGLE)


def changed(**plan: Any) -> Schedule:
    rows = {"*": {"attn:0": (True, False), "cross_attn:0": (True, False)}}
    return Schedule(2, {"": Plan(**{"rows": rows, **plan})})


@pytest.mark.parametrize(
    ("schedule", "options", "says"),
    [
        (changed(predictor="newton", parameters={"order": 1}), {}, "predicts by 'newton'"),
        (changed(codec="delta"), {}, "caches 'delta'"),
        (replace(changed(), sigmas=(1.0, 0.5, 0.0)), {}, "cannot hold the corrections or noise levels"),
        (changed(codec="value:bfloat16"), {}, "caches 'value:bfloat16'"),
        (Schedule.of_steps([0], 2), {}, "this schedule has trunk"),
        (Schedule.of_steps([0], 2, ["block:3"]), {}, "this schedule has block:3"),
        (Schedule.of_steps([0], 2, ["attn:0"]), {}, "give --layout flux or pixart"),
        (Schedule.of_steps([0], 2, ["attn:0"]), {"layout": "dit"}, "one of flux, pixart"),
        (Schedule.of_steps([0], 2, ["fused:0"]), {}, "give --blocks"),
        (Schedule.of_steps([0], 2, ["fused:0"]), {"blocks": 2}, "'fused:0' is in none of 2 blocks"),
        (Schedule.of_steps([0], 2, ["fused:0", "cross_attn:0"]), {}, "'(fused|cross_attn):0' is in none of"),
        (changed(), {"blocks": 0}, "blocks must be a whole number from 1"),
        (changed(), {"layout": "flux"}, "'cross_attn:0' is in none of"),
        (Schedule.of_steps([0], 2, ["cross_attn:4"]), {"blocks": 3}, "'cross_attn:4' is in none of 3 blocks"),
        (Schedule(2, dict.fromkeys("ab", changed().components[""])), {}, "this schedule has 2"),
        (
            Schedule(2, {"": Plan({b: {"cross_attn:0": (True, b == "a")} for b in "ab"})}),
            {},
            "a, b differ here",
        ),
    ],
)  # fmt: skip
def test_what_their_format_cannot_hold_is_refused(
    schedule: Schedule, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DcacheError, match=says):
        export(schedule, **options)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("num_blocks",), 0, '"num_blocks" must be a whole number'),
        (("num_blocks",), True, '"num_blocks" must be a whole number'),
        (("num_blocks",), 10**30, '"num_blocks" must be a whole number'),
        (("num_blocks",), 3, "must have the 3 blocks of this model"),
        (("num_inference_steps",), None, '"num_inference_steps" must be'),
        (("num_inference_steps",), 5, "has 4 steps"),
        (("num_single_blocks",), 2, "but PixArt"),
        (("schedule",), [], '"schedule" to hold steps'),
        (("schedule",), {}, '"schedule" to hold steps'),
        (("schedule", "001"), [], "blocks of this model, got list"),
        (("schedule", "001", "1"), {}, "must have attn1, attn2, ff"),
        (("schedule", "001", "1", "attn1"), 1, "must hold true or false"),
        (("schedule", "001", "1", "attn1"), "true", "must hold true or false"),
        (("schedule", "001", "1", "custom_compute_attn"), {}, "must have attn1, attn2, ff"),
        (("schedule", "000", "0"), {"attn1": True}, "components attn1: expected"),
    ],
)
def test_refusals_say_what_is_wrong(path: tuple[str, ...], value: Any, says: str) -> None:
    content = ecad(random.Random(0), 4, 2)
    place = content["cache_schedule"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(DcacheError, match=says):
        imported(content)


def test_steps_by_other_names_are_refused() -> None:
    content = ecad(random.Random(0), 4, 2)
    bits_of(content)["0001"] = bits_of(content).pop("001")
    with pytest.raises(DcacheError, match="no '001'"):
        imported(content)


@pytest.mark.parametrize(
    "config", [{"height": 256}, {"height": "256", "width": 256}, {"guidance_scale": [5]}]
)
def test_a_config_that_makes_no_sense_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(DcacheError, match='of "config" must be'):
        imported({**ecad(random.Random(0), 4, 2), "config": config})


def test_what_is_not_read_is_told() -> None:
    content = ecad(random.Random(0), 4, 2)
    content["cache_schedule"]["offset"] = 3
    assert imported(content).notes[0] == "not read: offset"
