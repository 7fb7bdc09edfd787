"""Histories: which anchors are kept, and what they weigh."""

import torch

from dcache.cache.history import Branch, History
from dcache.kernels.packed import Packed
from dcache.probes import SinceCompute
from dcache.util.bytes import bytes_of


def leaf(value):
    return (torch.full((2,), float(value)),)


def test_the_last_anchors_are_kept_oldest_first():
    history = History(limit=2)
    for step in range(4):
        history.push(step, -float(step), leaf(step))
    assert history.steps == [2, 3]
    assert history.taus == [-2.0, -3.0]
    assert [float(leaves[0][0]) for leaves in history.leaves] == [2.0, 3.0]


def test_an_anchor_at_the_newest_clock_replaces_it_even_when_full():
    history = History(limit=2)
    for step, tau in enumerate((1.0, 2.0, 2.0)):
        history.push(step, tau, leaf(step))
    assert history.taus == [1.0, 2.0]
    assert history.steps == [0, 2]
    assert float(history.leaves[1][0][0]) == 2.0


def test_push_ends_a_row_of_predictions_and_clear_forgets_all():
    history = History(limit=3)
    history.push(0, 0.0, leaf(0))
    history.run_length = 5
    history.push(1, 1.0, leaf(1))
    assert history.run_length == 0
    history.run_length = 2
    history.clear()
    assert (history.leaves, history.taus, history.steps, history.run_length) == ([], [], [], 0)


def test_room_is_made_by_the_anchor_that_will_be_replaced_and_its_memory_is_spare():
    history = History(limit=2)
    for step in (0, 1):
        history.make_room(float(step))
        assert history.spare == ()
        history.push(step, float(step), leaf(step))
    first, second = history.leaves
    history.make_room(2.0)
    # Until the next anchor is complete there is one less.
    assert (history.leaves, history.taus, history.steps) == ([second], [1.0], [1])
    assert history.spare is first
    assert len(list(history.tensors())) == 2
    history.push(2, 2.0, first)
    assert history.spare == ()
    assert history.leaves == [second, first]
    history.make_room(2.0)
    assert history.spare is first
    assert history.taus == [1.0]


def test_the_memory_of_a_forecast_is_not_spare():
    history = History(limit=1)
    history.push(0, 0.0, leaf(0))
    history.forecast = history.leaves[-1]
    history.make_room(1.0)
    assert history.spare == ()
    assert float(history.forecast[0][0]) == 0.0


def test_a_packed_anchor_weighs_its_bytes_and_its_scales():
    history = History(limit=2)
    history.push(0, 0.0, (Packed.empty(torch.zeros(2, 5, 64), torch.int8), None))
    assert bytes_of(history.tensors()) == 2 * 5 * 64 + 4 * 2 * 5


def test_branch_makes_histories_of_its_limit_and_starts_afresh():
    branch = Branch("0", limit=2)
    history = branch.history("trunk")
    assert branch.history("trunk") is history
    assert history.limit == 2
    history.push(0, 0.0, (torch.zeros(3), None))
    branch.indicator = SinceCompute()
    branch.indicator.update(torch.zeros(5), None)
    branch.indicator.end_step(True, None)
    assert sorted(t.numel() for t in branch.tensors()) == [3, 5]
    branch.start_afresh("shape")
    assert list(branch.tensors()) == []
    assert branch.reset == "shape"
    assert branch.history("trunk") is not history


def test_bytes_count_a_storage_once_and_whole():
    base = torch.zeros(10, dtype=torch.float32)
    assert bytes_of([]) == 0
    assert bytes_of([base]) == 40
    assert bytes_of([base, base, base[3:5], base.view(2, 5)]) == 40
    assert bytes_of([base[:1]]) == 40
    assert bytes_of([base, torch.zeros(3, dtype=torch.bfloat16)]) == 46
