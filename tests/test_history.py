"""Histories: which anchors are kept, and what they weigh."""

import torch

from dcache.history import Branch, History, bytes_of
from dcache.probes import Gauge


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


def test_branch_makes_histories_of_its_limit_and_starts_afresh():
    branch = Branch("0", limit=2)
    history = branch.history("trunk")
    assert branch.history("trunk") is history
    assert history.limit == 2
    history.push(0, 0.0, (torch.zeros(3), None))
    branch.gauge = Gauge()
    branch.gauge.see(torch.zeros(5), None)
    branch.gauge.settle(True, None)
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
