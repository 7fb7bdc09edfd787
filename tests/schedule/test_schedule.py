"""Schedules as values: refusals, stretching, equality."""

import random
from dataclasses import replace

import pytest

from dcache.errors import DcacheError
from dcache.methods.replay import replay
from dcache.predictors.corrections import Corrections
from dcache.schedule import Plan, Schedule
from dcache.schedule.plan import RunLength
from tests.rules import moment
from tests.schedule.corrected_schedules import ROW, corrected_schedule, entry, tables
from tests.schedule.schedules import FULL, SMALL, row


def test_of_steps():
    made = Schedule.of_steps(
        [0, 3], 5, sites=["attn:0", "mlp:0"], codec="value", predictor="newton", parameters={"order": 1}
    )
    plan = made.components[""]
    assert plan.rows == {"*": {"attn:0": row("10010"), "mlp:0": row("10010")}}
    assert (plan.sites, plan.computed, plan.codec) == (("attn:0", "mlp:0"), 4, "value")
    assert Schedule.of_steps(range(3), 3).components[""].rows["*"]["trunk"] == row("111")
    assert Schedule.of_steps((i for i in (0, 2)), 3).components[""].rows["*"]["trunk"] == row("101")
    for wrong in ([5], [-1]):
        with pytest.raises(DcacheError, match="between 0 and 4"):
            Schedule.of_steps(wrong, 5)
    with pytest.raises(DcacheError, match="at least 1"):
        Schedule.of_steps([], 0)


def test_replay_computes_where_the_table_says():
    method = replay(FULL, "transformer", single=False)
    assert (method.codec, method.clock, method.steps, method.predicts) == (
        "value:bfloat16",
        "logsnr",
        6,
        True,
    )
    assert method.predictor.parameters() == {"order": 2, "since": 1}
    for branch, text in (("cond", "110100"), ("uncond", "100100")):
        asked = [method.rule(moment(i, 6, site="run:1-3", branch=branch)) for i in range(6)]
        assert asked == ["schedule" if c else None for c in row(text)]
    assert not replay(Schedule.of_steps(range(4), 4)).predicts


def test_a_component_is_found_by_name_or_if_it_is_the_only_one():
    assert FULL.plan_for("transformer_2", single=False) is FULL.components["transformer_2"]
    assert SMALL.plan_for("unet", single=True) is SMALL.components[""]
    for schedule, single in ((FULL, True), (SMALL, False)):
        with pytest.raises(DcacheError, match="'unet'"):
            schedule.plan_for("unet", single)


def test_stretch_keeps_first_last_and_the_fractions():
    assert FULL.stretch(6) is FULL
    made = Schedule.of_steps([0, 2, 5, 10], 11)
    assert (
        made.stretch(21).components[""].rows["*"]["trunk"]
        == Schedule.of_steps([0, 4, 10, 20], 21).components[""].rows["*"]["trunk"]
    )
    assert (
        made.stretch(6).components[""].rows["*"]["trunk"]
        == Schedule.of_steps([0, 1, 2, 5], 6).components[""].rows["*"]["trunk"]
    )
    rng = random.Random(0)
    for _ in range(50):
        steps, other = rng.randrange(1, 30), rng.randrange(1, 30)
        chosen = [i for i in range(steps) if rng.random() < 0.4]
        old = Schedule.of_steps(chosen, steps).components[""].rows["*"]["trunk"]
        new = Schedule.of_steps(chosen, steps).stretch(other).components[""].rows["*"]["trunk"]
        assert len(new) == other
        assert new[0] >= old[0]
        assert new[-1] >= old[-1]
        assert sum(new) <= len(chosen) + 1
        assert any(new) == any(old)


def test_the_one_evaluation_of_a_run_is_its_first_and_its_last():
    one = Schedule.of_steps([0], 1).stretch(4)
    assert one.components[""].rows["*"]["trunk"] == row("1001")
    assert one.stretch(1).components[""].rows["*"]["trunk"] == row("1")


def test_stretch_forgets_what_was_measured_and_refuses_nonsense():
    assert FULL.stretch(12).measured == {}
    assert FULL.stretch(12).components["transformer"].codec == "value:bfloat16"
    for wrong in (0, -1, 2.0, "3", True, None):
        with pytest.raises(DcacheError, match="steps"):
            FULL.stretch(wrong)


def test_equal_functions_have_equal_digests():
    def of(text, **plan):
        return Schedule(len(text), {"": Plan({"*": {"trunk": row(text)}}, **plan)})

    one = of("1010")
    # The first evaluation is computed whatever the table says.
    assert of("0010").digest() == one.digest() == one.canonical().digest()
    assert of("0010").canonical() == one.canonical() == one
    assert replace(one, method="x", sampler="y", guidance=2.0, measured={"a": 1}).digest() == one.digest()
    assert of("1010", model="M", config="c", branches="together").digest() == one.digest()
    both = Schedule(4, {"": Plan({"a": {"trunk": row("0010")}, "b": {"trunk": row("1010")}})})
    assert both.digest() == one.digest()
    others = [
        of("1011"),
        of("10100"),
        of("1010", codec="value"),
        of("1010", predictor="newton", parameters={"order": 1}),
        of("1010", predictor="newton", parameters={"order": 2}),
        of("1010", clock="step"),
        Schedule(4, {"unet": one.components[""]}),
        Schedule(4, {"": Plan({"*": {"block:0": row("1010")}})}),
    ]
    assert len({s.digest() for s in [one, *others]}) == len(others) + 1


def test_canonical_drops_what_nothing_reads():
    rows = {"block:0": row("101"), "block:1": row("110")}
    made = Schedule(3, {"": Plan({"*": rows}, codec="value")}).canonical()
    assert made.components[""].rows["*"] == {"block:0": row("100"), "block:1": row("110")}
    assert made.canonical() == made
    assert FULL.canonical().canonical() == FULL.canonical()


@pytest.mark.parametrize("rows", [{}, {"*": {}}, {"*": {"trunk": row("111")}}, {"*": {"nose": row("1111")}}])
def test_a_schedule_without_a_full_table_cannot_be_made(rows):
    with pytest.raises(DcacheError, match="component 'unet'"):
        Schedule(4, {"unet": Plan(rows)})
    with pytest.raises(DcacheError, match="at least one component"):
        Schedule(4, {})


def test_a_schedule_has_corrections_of_its_own_sites_and_evaluations_only():
    with pytest.raises(DcacheError, match=r"corrections for 'block:0'"):
        corrected_schedule(Corrections({"block:0": {1: entry()}}, {"block:0": -1}))
    with pytest.raises(DcacheError, match="evaluations below 6"):
        corrected_schedule(Corrections({"trunk": {6: entry()}}, {"trunk": -1}))


def test_canonical_keeps_what_a_prediction_stands_on():
    kept = Corrections({"trunk": {1: entry(), 5: entry(anchor=3)}}, {"trunk": -1})
    # Evaluation 3 is computed, and 4 is predicted from 3, not from 0.
    more = {**kept.table["trunk"], 3: entry(), 4: entry(anchor=0)}
    made = corrected_schedule(Corrections({"trunk": more}, {"trunk": -1})).canonical()
    assert made.components["transformer"].corrections == kept
    assert made.canonical() == made
    none = corrected_schedule(Corrections({"trunk": {3: entry()}}, {"trunk": -1})).canonical()
    assert none.components["transformer"].corrections is None


def test_corrections_and_levels_decide_the_pictures_and_so_the_digest():
    plain = replace(corrected_schedule(), components={"transformer": Plan({"*": {"trunk": ROW}})})
    levels = tuple(1 - i / 6 for i in range(7))
    made = [
        plain,
        corrected_schedule(),
        corrected_schedule(sigmas=levels),
        corrected_schedule(sigmas=levels[:-1]),
    ]
    assert len({s.digest() for s in made}) == 4
    assert corrected_schedule().canonical().digest() == corrected_schedule().digest()


def test_stretching_is_refused_and_replay_hands_on():
    levels = tuple(1 - i / 6 for i in range(7))
    assert corrected_schedule().stretch(6) == corrected_schedule()
    with pytest.raises(DcacheError, match="belong to its 6 evaluations"):
        corrected_schedule().stretch(12)
    with pytest.raises(DcacheError, match="belong to its 6 evaluations"):
        Schedule.of_steps([0], 6).stretch(6).__class__(
            6, {"": Plan({"*": {"trunk": ROW}})}, sigmas=levels
        ).stretch(3)
    method = replay(corrected_schedule(sigmas=levels))
    assert (method.corrections, method.sigmas) == (tables(), levels)


def of_two_runs():
    """Rows of two runs of 3 and 2 evaluations; the sampler's table of the second lists 3."""
    runs = (RunLength(3, 3), RunLength(2, 3))
    return Schedule(6, {"": Plan({"*": {"trunk": row("100101")}}, runs=runs)})


def test_runs_of_one_call_are_replayed_and_are_not_stretched():
    method = replay(of_two_runs())
    assert method.runs == (RunLength(3, 3), RunLength(2, 3))
    assert (method.runs[1].evaluations, method.runs[1].entries) == (2, 3)
    assert of_two_runs().canonical().components[""].runs == method.runs
    with pytest.raises(
        DcacheError, match="lengths of the runs of one pipeline call, which cannot be stretched"
    ):
        of_two_runs().stretch(8)
    # Runs are part of what decides the pictures.
    plain = replace(of_two_runs(), components={"": Plan({"*": {"trunk": row("100101")}})})
    assert plain.digest() != of_two_runs().digest()


def test_runs_have_no_more_evaluations_than_the_schedule():
    with pytest.raises(DcacheError, match="have more evaluations"):
        Schedule(4, {"": Plan({"*": {"trunk": row("1001")}}, runs=(RunLength(3, 3), RunLength(2, 2)))})
