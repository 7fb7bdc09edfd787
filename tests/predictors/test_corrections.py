"""Corrections as values: what they refuse, and what of them belongs to a schedule."""

import pytest
import torch

from dcache.errors import DcacheError
from dcache.predictors.corrections import Correction, Corrections
from tests.schedule.corrected_schedules import entry, tables


def test_equal_tables_are_equal_and_any_number_makes_another():
    assert tables() == tables()
    assert hash(tables()) == hash(tables())
    assert repr(tables()) == f"Corrections(trunk: {tables().digest})"
    nudged = entry(seed=1)
    nudged.shift[2] += 1e-6
    others = [
        Corrections({"trunk": {**tables().table["trunk"], 1: nudged}}, {"trunk": -1}),
        Corrections({"trunk": {**tables().table["trunk"], 2: entry(seed=2, anchor=1)}}, {"trunk": -1}),
        Corrections(tables().table, {"trunk": 1}),
        Corrections({"block:0": tables().table["trunk"]}, {"block:0": -1}),
    ]
    assert len({c.digest for c in [tables(), *others]}) == 5


@pytest.mark.parametrize(
    ("table", "dims", "says"),
    [
        ({"nose": {1: entry()}}, {"nose": -1}, "such as 'trunk'"),
        ({"guidance": {1: entry()}}, {"guidance": -1}, "such as 'trunk'"),
        ({"trunk": {1: entry()}}, {}, "dimension of its channels, got None"),
        ({"trunk": {1: entry()}}, {"trunk": 9}, "dimension of its channels, got 9"),
        ({"trunk": {1: entry(anchor=1)}}, {"trunk": -1}, "must stand on an earlier evaluation, got 1"),
        ({"trunk": {1: entry(anchor=-1)}}, {"trunk": -1}, "earlier evaluation"),
        ({"trunk": {1: entry(), 2: entry(4)}}, {"trunk": -1}, "evaluation 2 needs 3 float32"),
        ({"trunk": {1: entry(0)}}, {"trunk": -1}, "needs 0 float32"),
        (
            {"trunk": {1: Correction(torch.ones(3), torch.ones(3, dtype=torch.float64), 0)}},
            {"trunk": -1},
            "of torch.float64",
        ),
        (
            {"trunk": {1: Correction(torch.ones(3), torch.full((3,), float("nan")), 0)}},
            {"trunk": -1},
            "evaluation 1 holds NaN or infinity",
        ),
    ],
)
def test_tables_that_make_no_sense_are_refused(table, dims, says):
    with pytest.raises(DcacheError, match=says):
        Corrections(table, dims)
