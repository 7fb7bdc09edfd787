"""Anchors between two computed calls: rows that are dropped, and the last entry of a forecast."""

from typing import Any

import pytest
import torch

from dcache.cache.codec import Codec
from dcache.cache.history import History, Leaves
from dcache.engine.anchors import fit_rows, latest_entry
from dcache.kernels.packed import Packed
from dcache.predictors import Foca, Newton, Reuse
from dcache.util.bytes import bytes_of

VALUE = Codec("value")
INT8 = Codec("value", torch.int8)


def rows(*values: float, size: int = 64) -> torch.Tensor:
    """One row of `size` for each value, filled with it."""
    return torch.tensor(values, dtype=torch.float32).unsqueeze(1).repeat(1, size)


def filled(leaf: Any) -> list[float]:
    """The value each row is filled with."""
    wide = leaf.to(torch.float32)
    assert bool((wide == wide[:, :1]).all())
    return wide[:, 0].tolist()


def history_of(*anchors: Leaves, forecast: Leaves | None = None) -> History:
    history = History(3)
    for i, leaves in enumerate(anchors):
        history.push(i, float(i), leaves)
    history.forecast = forecast
    return history


def test_where_all_rows_are_run_again_nothing_is_left() -> None:
    history = history_of((rows(1, 2),))
    history.half = True
    fit_rows(history, None, VALUE, mean=False)
    assert history.leaves == []
    assert not history.half


@pytest.mark.parametrize(("part", "expected"), [(slice(0, 2), [1.0, 2.0]), (slice(2, 4), [3.0, 4.0])])
@pytest.mark.parametrize("codec", [VALUE, INT8])
def test_the_rows_that_are_run_stay(part: slice, expected: list[float], codec: Codec) -> None:
    anchor, forecast = (codec.close(None, rows(1, 2, 3, 4)) for _ in range(2))
    history = history_of((anchor, None), forecast=(forecast, None))
    fit_rows(history, (4, part), codec, mean=False)
    assert history.half
    for first, second in (*history.leaves, history.forecast or ()):
        assert filled(first) == pytest.approx(expected)
        assert second is None
    # In memory of its own: the rows that are dropped are not kept alive.
    each = 2 * 64 * 4 if codec is VALUE else 2 * 64 + 2 * 4
    assert bytes_of(history.tensors()) == 2 * each


def test_rows_are_dropped_once() -> None:
    # Two frames to a row: what is left has as many as a whole batch of two again.
    history = history_of((rows(1, 2, 3, 4),))
    for _ in range(2):
        fit_rows(history, (2, slice(0, 1)), VALUE, mean=False)
    assert [filled(leaves[0]) for leaves in history.leaves] == [[1.0, 2.0]]


@pytest.mark.parametrize("codec", [VALUE, INT8])
def test_or_the_mean_of_both_halves_stays(codec: Codec) -> None:
    history = history_of((codec.close(None, rows(1, 2, 3, 6)),))
    fit_rows(history, (4, slice(0, 2)), codec, mean=True)
    (leaf,) = history.leaves[0]
    assert isinstance(leaf, Packed) is (codec is INT8)
    assert filled(leaf) == pytest.approx([2.0, 4.0])


def test_frames_behind_the_rows_go_with_them() -> None:
    # Two rows of three frames each: the second row's are 4, 5 and 6.
    history = history_of((rows(1, 2, 3, 4, 5, 6),))
    fit_rows(history, (2, slice(1, 2)), VALUE, mean=False)
    assert filled(history.leaves[0][0]) == [4.0, 5.0, 6.0]


def test_what_has_other_rows_than_the_batch_stays_whole() -> None:
    history = history_of((rows(1, 2, 3), rows(7)))
    fit_rows(history, (2, slice(0, 1)), VALUE, mean=False)
    assert [filled(leaf) for leaf in history.leaves[0]] == [[1.0, 2.0, 3.0], [7.0]]


def test_without_a_prediction_since_the_last_entry_is_the_newest_anchor() -> None:
    history = history_of((rows(10),), (rows(20),))
    assert latest_entry(history, Newton(1), VALUE) is history.leaves[-1]


def test_a_prediction_from_one_anchor_is_that_anchor() -> None:
    history = history_of((rows(10),))
    history.run_length, history.predicted_at = 2, 3.0
    assert latest_entry(history, Newton(1), VALUE) is history.leaves[-1]


@pytest.mark.parametrize("codec", [VALUE, INT8])
def test_else_it_is_what_was_predicted_last_once_more(codec: Codec) -> None:
    # A line through 10 at 0 and 20 at 1 is 40 at 3.
    anchors = [(codec.close(None, rows(y)), None) for y in (10.0, 20.0)]
    history = history_of(*anchors)
    history.run_length, history.predicted_at = 2, 3.0
    entry, nothing = latest_entry(history, Newton(1), codec)
    assert isinstance(entry, Packed) is (codec is INT8)
    assert filled(entry) == pytest.approx([40.0], rel=1e-2)
    assert nothing is None
    assert filled(latest_entry(history, Reuse(), codec)[0]) == pytest.approx([20.0])


def test_the_entry_before_the_newest_anchor_takes_part() -> None:
    # FoCa with A = 10, 20 and P = 12, one step on: A_n + (A_n - P) / 2 + (A_n - A_{n-1}) / 2 = 20 + 4 + 5.
    history = history_of((rows(10),), (rows(20),), forecast=(rows(12),))
    history.run_length, history.predicted_at = 1, 2.0
    assert filled(latest_entry(history, Foca(), VALUE)[0]) == [29.0]
