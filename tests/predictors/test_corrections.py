"""Corrections as values: what they refuse, and what of them belongs to a schedule."""

import pytest
import torch

from dcache.errors import DcacheError
from dcache.kernels.weighted_sum import weighted_sum
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
        (
            {"trunk": {1: entry(anchor=1)}},
            {"trunk": -1},
            "must name an earlier evaluation as its anchor, got 1",
        ),
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


Z = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def by_hand(anchor=0, dim=-1):
    rows = {2: Correction(torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 1.0, 7.0]), anchor)}
    return Corrections({"trunk": rows}, {"trunk": dim}).of("trunk")


def test_a_prediction_is_scaled_and_shifted_channel_by_channel():
    summed = by_hand().corrected_sum(weighted_sum, 2, 0)
    # Twice the anchor on a base of ones: 3, 5, 7 and 9, 11, 13.
    found = summed(torch.ones(2, 3), [Z], [2.0], torch.float32)
    assert found.tolist() == [[3.0, 11.0, 7.0], [9.0, 23.0, 7.0]]
    # The same numbers along the first dimension, as of maps.
    along = by_hand(dim=0).corrected_sum(weighted_sum, 2, 0)
    assert along(None, [Z.T.contiguous()], [1.0], torch.float32).T.tolist() == [[1, 5, 7], [4, 11, 7]]


def test_a_narrow_prediction_is_rounded_once():
    rows = {1: Correction(torch.tensor([256.0]), torch.tensor([-256.0]), 0)}
    summed = Corrections({"trunk": rows}, {"trunk": -1}).of("trunk").corrected_sum(weighted_sum, 1, 0)
    # 1 + 2^-8 is no bfloat16: rounded before the correction it would be 1, and the result 0.
    base, anchor = torch.ones(1, 1, dtype=torch.bfloat16), torch.full((1, 1), 2.0**-8, dtype=torch.bfloat16)
    found = summed(base, [anchor], [1.0], torch.bfloat16)
    assert (found.dtype, float(found)) == (torch.bfloat16, 1.0)


@pytest.mark.parametrize(("index", "anchor"), [(1, 0), (3, 0), (2, 1)])
def test_where_there_is_no_entry_for_this_anchor_nothing_is_corrected(index, anchor):
    assert by_hand().corrected_sum(weighted_sum, index, anchor) is weighted_sum


@pytest.mark.parametrize(("shape", "dim"), [((2, 4), -1), ((3, 2), -1), ((2, 3), 0), ((3,), 1), ((3,), -2)])
def test_an_output_of_other_channels_is_refused(shape, dim):
    by_hand().check(torch.empty(5, 3))
    with pytest.raises(
        DcacheError, match=rf"trunk are for 3 channels in dimension {dim}, .*fit them on this"
    ):
        by_hand(dim=dim).check(torch.empty(shape))


def test_sites_channels_and_a_part_of_them():
    both = Corrections({"attn:0": {1: entry(4)}, "mlp:0": {1: entry(2)}}, {"attn:0": 1, "mlp:0": -1})
    assert both.sites == ("attn:0", "mlp:0")
    assert (both.channels("attn:0"), both.channels("mlp:0")) == (4, 2)
    assert both.of("attn:1") is None
    assert both.only(["mlp:0", "attn:9"]) == Corrections({"mlp:0": {1: entry(2)}}, {"mlp:0": -1})
    assert both.only(["attn:9"]) is None
    # A site without entries has none.
    assert Corrections({"trunk": {}, "mlp:0": {1: entry(2)}}, {"mlp:0": -1}).sites == ("mlp:0",)


def test_entries_are_used_where_a_prediction_stands_on_their_anchor_on_some_branch():
    rows = {1: entry(), 2: entry(anchor=1), 3: entry(anchor=1)}
    made = Corrections({"trunk": rows}, {"trunk": -1})
    late, early = {"trunk": (True, True, False, False)}, {"trunk": (True, False, True, False)}
    assert list(made.used([late]).table["trunk"]) == [2, 3]
    assert list(made.used([early]).table["trunk"]) == [1]
    assert made.used([late, early]) == made
    assert made.used([{"trunk": (True,) * 4}]) is None
    # A run that was cut short has no later evaluations, and the first one is always computed.
    assert list(made.used([{"trunk": (False, False)}]).table["trunk"]) == [1]


def test_what_a_file_says_of_them_are_their_places_and_their_digest():
    assert tables().content() == {
        "digest": tables().digest,
        "sites": {"trunk": {"dim": -1, "channels": 3, "evaluations": [1, 2, 4], "anchors": [0, 0, 3]}},
    }
    assert len(tables().digest) == 16
