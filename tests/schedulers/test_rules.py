"""Rules: what each computes, its edges, and the step lists that papers print."""

import math
from dataclasses import replace

import pytest

from dcache.errors import DcacheError
from dcache.schedulers import (
    ChangeAbove,
    Every,
    KnownLength,
    Last,
    Listed,
    MaxRun,
    Retention,
    Warmup,
    any_of,
)
from tests.rules import computed_steps, moment


@pytest.mark.parametrize(
    ("interval", "warmup", "steps", "full"),
    [
        # TaylorSeer on FLUX: N, first_enhance 3.
        (6, 3, 50, [0, 1, 2, 8, 14, 20, 26, 32, 38, 44]),
        (9, 3, 50, [0, 1, 2, 11, 20, 29, 38, 47]),
        (5, 3, 50, [0, 1, 2, 7, 12, 17, 22, 27, 32, 37, 42, 47]),
        # FORA: every N-th from the first.
        (3, 1, 10, [0, 3, 6, 9]),
        (3, 0, 10, [0, 3, 6, 9]),
        (1, 0, 4, [0, 1, 2, 3]),
        (100, 1, 4, [0]),
    ],
)
def test_published_step_lists(interval, warmup, steps, full):
    assert computed_steps(any_of(Warmup(warmup), Every(interval)), steps) == full


@pytest.mark.parametrize(
    ("warmup", "interval", "count"),
    [
        (2, 3, 18),
        (2, 4, 14),
        (2, 5, 11),
        (2, 6, 10),
        (3, 3, 18),
        (3, 5, 12),
        (3, 6, 10),
        (3, 9, 8),
        (1, 5, 10),
    ],
)
def test_published_counts_of_full_steps_of_50(warmup, interval, count):
    assert len(computed_steps(any_of(Warmup(warmup), Every(interval)), 50)) == count


def test_diffusers_own_cadence_as_a_list():
    # Computed before step 3, then where (t - 4) % 5 == 0: another plan than N = 5 with a warm-up of 3.
    cadence = (0, 1, 2, *range(4, 50, 5))
    assert computed_steps(Listed(cadence), 50) == [0, 1, 2, 4, 9, 14, 19, 24, 29, 34, 39, 44, 49]


def test_last_adds_the_last_step_where_the_count_is_known():
    rule = any_of(Warmup(3), Last(), Every(6))
    assert computed_steps(rule, 50)[-2:] == [44, 49]
    assert computed_steps(rule, 50, known=False)[-1] == 44
    assert Last()(moment(9, 10)) == "last"
    assert Last()(moment(8, 10)) is None
    assert Last()(moment(9, None)) is None


def test_every_is_the_number_of_predictions_in_between():
    for interval in range(1, 8):
        full = computed_steps(Every(interval), 40)
        assert full == list(range(0, 40, interval))
        assert Every(interval)(moment(run_length=interval - 1)) == "interval"
        assert interval == 1 or Every(interval)(moment(run_length=interval - 2)) is None


def test_max_run_is_the_longest_row_of_predictions():
    assert computed_steps(MaxRun(2), 8) == [0, 3, 6]
    assert MaxRun(1)(moment(run_length=1)) == "max_run"
    assert MaxRun(1)(moment()) is None


def test_warmup_counts_evaluations():
    assert [Warmup(2)(moment(i)) for i in range(3)] == ["warmup", "warmup", None]
    assert Warmup(0)(moment(0)) is None


@pytest.mark.parametrize(
    ("threshold", "change", "reason"),
    [
        (0.1, 0.0999, None),
        (0.1, 0.1, "threshold"),
        (0.1, 0.2, "threshold"),
        (0.0, 0.0, "threshold"),
        (0.1, math.nan, "nan"),
        (math.inf, 1e30, None),
        (math.inf, math.inf, "threshold"),
        (math.inf, math.nan, "nan"),
    ],
)
def test_above_predicts_only_strictly_below_its_threshold(threshold, change, reason):
    assert ChangeAbove(threshold)(moment(change=change)) == reason


def test_any_of_takes_the_first_reason_and_asks_no_further():
    asked = []

    def watching(now):
        asked.append(now.index)
        return "threshold"

    rule = any_of(Warmup(2), None, watching)
    assert [rule(moment(i)) for i in range(4)] == ["warmup", "warmup", "threshold", "threshold"]
    assert asked == [2, 3]
    assert any_of()(moment()) is None


def test_a_cheap_guard_spares_the_probe():
    def read():
        raise AssertionError("read a tensor")

    now = moment(0, run_length=9, change=read)
    assert any_of(Warmup(1), ChangeAbove(0.1))(now) == "warmup"
    assert any_of(MaxRun(3), ChangeAbove(0.1))(now) == "max_run"


@pytest.mark.parametrize(
    "rule",
    [
        Warmup(2),
        Last(),
        MaxRun(2),
        Every(3),
        Listed((1, 5)),
        ChangeAbove(0.3),
        any_of(Warmup(1), ChangeAbove(0.3)),
    ],
)
def test_rules_are_pure_and_comparable(rule):
    moments = [moment(i, 6, i % 3, change=i / 5) for i in range(6)]
    first = [rule(m) for m in moments]
    assert [rule(m) for m in reversed(moments)] == first[::-1]
    assert replace(rule) == rule
    assert isinstance(hash(rule), int)


@pytest.mark.parametrize(
    ("make", "name", "wrong"),
    [
        (Warmup, "warmup", (-1, 1.0, "1", None, True)),
        (MaxRun, "max_run", (0, -1, 2.5, "1", True)),
        (Every, "interval", (0, -3, 1.5, "3", None, True)),
        (ChangeAbove, "threshold", (-0.1, math.nan, "0.1", None, True)),
        (lambda step: Listed((0, step)), "steps", (-1, 1.5, "2", None)),
    ],
)
def test_bad_parameters_are_refused_by_name(make, name, wrong):
    for value in wrong:
        with pytest.raises(DcacheError, match=name):
            make(value)


@pytest.mark.parametrize(
    ("share", "count", "first"), [(0.1, 28, 2), (0.2, 50, 10), (0.0, 50, 1), (0.1, 5, 1)]
)
def test_retention_is_a_share_of_the_run_and_at_least_one_evaluation(share, count, first):
    rule = Retention(share)
    assert [rule(moment(i, count)) for i in (first - 1, first)] == ["warmup", None]
    # A share of nothing known.
    assert [rule(moment(i, None)) for i in (0, 9)] == ["length"] * 2
    with pytest.raises(DcacheError, match="retention"):
        Retention(-0.1)


def test_a_run_of_unknown_length_is_computed_in_full_for_its_length():
    rule = any_of(KnownLength(), Last(), Every(3))
    assert [rule(moment(i, None, run_length=i)) for i in (0, 1, 4)] == ["length"] * 3
    assert [rule(moment(i, 5, run_length=i)) for i in (1, 2, 4)] == [None, "interval", "last"]
