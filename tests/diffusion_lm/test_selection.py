"""`Selection`: ragged rows as a padded index, and back."""

import torch

from dcache.diffusion_lm.selection import Selection

MASK = torch.tensor([[False, True, False, True], [False, False, True, False]])


def test_rows_are_moved_together_and_padded():
    selection = Selection(MASK)
    assert selection.index.index.tolist() == [[1, 3], [2, -1]]
    assert selection.named.tolist() == [[True, True], [True, False]]
    assert selection.positions.tolist() == [[1, 3], [2, 0]]
    assert not selection.full
    assert selection.count == 3
    values = torch.arange(8.0).view(2, 4)
    assert selection.take(values).tolist() == [[1, 3], [6, 4]]
    assert selection.put(values.clone(), torch.full((2, 2), -1.0)).tolist() == [[0, -1, 2, -1], [4, 5, -1, 7]]
    assert selection.slots[MASK].tolist() == [0, 1, 0]


def test_a_wide_selection_keeps_positions():
    selection = Selection(MASK, wide=True)
    assert selection.index.index.tolist() == [[-1, 1, -1, 3], [-1, -1, 2, -1]]
    rows = torch.arange(16.0).view(2, 4, 2)
    put = selection.put(torch.zeros(2, 4, 2), rows)
    assert torch.equal(put, rows * MASK[..., None])


def test_a_full_selection_is_the_identity():
    selection = Selection(torch.ones(2, 4, dtype=torch.bool))
    assert selection.full
    values = torch.randn(2, 4, 3)
    assert selection.take(values) is values


def test_a_sequence_may_have_no_row():
    selection = Selection(torch.tensor([[True, False], [False, False]]))
    assert selection.index.index.tolist() == [[0], [-1]]
    assert selection.put(torch.ones(2, 2), torch.zeros(2, 1)).tolist() == [[0, 1], [1, 1]]


def test_there_may_be_more_slots_than_rows():
    selection = Selection(torch.zeros(2, 3, dtype=torch.bool), least=1)
    assert selection.index.index.tolist() == [[-1], [-1]]
    assert selection.positions.tolist() == [[0], [0]]
    assert selection.count == 0
    even = Selection(torch.tensor([[False, True, True], [True, False, True]]), least=1)
    assert even.index.index.tolist() == even.positions.tolist() == [[1, 2], [0, 2]]
    assert even.named.all()
