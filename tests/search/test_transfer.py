"""Schedules carried to another number of evaluations."""

from dataclasses import replace

import pytest

from dcache.errors import DcacheError
from dcache.schedule import Plan, Schedule
from dcache.search.fitting.closed_loop import Share, along, line, with_slopes
from dcache.search.transfer import resample_steps


def straight(computed: tuple[int, ...], steps: int, share: Share) -> Schedule:
    row = tuple(t in computed for t in range(steps))
    plan = Plan(
        {"*": {"trunk": row}}, predictor="fitted", parameters=along({"trunk": row}, share), clock="step"
    )
    return Schedule(steps, {"": plan})


def of(schedule: Schedule) -> Plan:
    (plan,) = schedule.components.values()
    return plan


def test_the_same_number_changes_nothing() -> None:
    one = straight((0, 3, 6), 9, Share(0.7))
    assert resample_steps(one, 9) is one


@pytest.mark.parametrize("share", [Share(1.0), Share(0.5, 0.25), Share(1.0, 0.0)])
@pytest.mark.parametrize("steps", [5, 17, 33])
def test_shares_of_the_line_are_kept(share: Share, steps: int) -> None:
    one = straight((0, 2, 4, 6), 9, share)
    moved = resample_steps(one, steps)
    row = of(moved).rows["*"]["trunk"]
    # Computes keep their fractions of the run, and the new lines are followed as far as the old ones were.
    assert [t for t, computed in enumerate(row) if computed] == [
        round(t * (steps - 1) / 8) for t in (0, 2, 4, 6)
    ]
    expected = along({"trunk": row}, share)
    for part, tables in expected.items():
        (weights,) = tables.values()
        found = of(moved).parameters[part]["trunk"]
        assert found.keys() == weights.keys()
        for t, anchors in weights.items():
            assert found[t] == pytest.approx(anchors)


def test_each_prediction_has_the_share_of_the_nearest() -> None:
    bare = replace(straight((0, 2), 6, Share(1.0)))
    lines = line(of(bare).rows["*"]["trunk"], 1.0)
    # 0.5, 1.5, 2.5 of the line at evaluations 3, 4, 5.
    one = with_slopes(bare, {t: (t - 2.5) * slope for t, slope in lines.items()})
    moved = resample_steps(one, 11)
    row = of(moved).rows["*"]["trunk"]
    weights = of(moved).parameters["weights"]["trunk"]
    shares = {t: -weights[str(t)]["0"] / slope for t, slope in line(row, 1.0).items()}
    assert shares == pytest.approx({5: 0.5, 6: 0.5, 7: 0.5, 8: 1.5, 9: 1.5, 10: 2.5})


def test_what_belongs_to_its_evaluations_is_refused() -> None:
    one = straight((0, 2, 4), 9, Share(1.0))
    plan = of(one)
    three = replace(plan, parameters={"weights": {"*": {"5": {"0": 0.1, "2": -0.5, "4": 1.4}}}})
    with pytest.raises(DcacheError, match=r"weights of the last two anchors can be transferred \(2 and 4"):
        resample_steps(replace(one, components={"": three}), 17)
    apart = replace(plan, rows={"cond": plan.rows["*"], "uncond": {"trunk": (True,) * 9}})
    with pytest.raises(DcacheError, match="only if all guidance branches share their rows"):
        resample_steps(replace(one, components={"": apart}), 17)
    with pytest.raises(DcacheError, match="noise levels"):
        resample_steps(replace(one, sigmas=tuple(float(9 - i) for i in range(10))), 17)


def test_other_predictors_are_stretched() -> None:
    one = Schedule.of_steps((0, 4), 9, predictor="newton", parameters={"order": 1})
    assert resample_steps(one, 17) == one.stretch(17)
