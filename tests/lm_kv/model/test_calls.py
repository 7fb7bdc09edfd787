import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.model.calls import mask_of, read_call


def read(mask, queries=2, rope=None, start=3):
    return read_call(mask, rope, 2, queries, start, torch.device("cpu"))


def test_without_a_mask_every_token_is_true_and_counted_from_the_columns_before():
    call = read(None)
    assert call.valid.all()
    assert call.fresh.valid is None
    assert call.rope.tolist() == [[3, 4], [3, 4]]
    assert call.count.tolist() == [2, 2]


def test_only_the_last_columns_of_a_mask_are_this_calls():
    call = read(torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 1]]))
    assert call.valid.tolist() == [[False, True], [True, True]]
    assert call.fresh.valid is call.valid
    assert call.rank.tolist() == [[0, 0], [0, 1]]


def test_a_mask_without_pads_masks_nothing():
    assert read(torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]])).fresh.valid is None


def test_a_mask_with_four_dimensions_says_what_each_query_sees():
    mask = torch.full((1, 1, 2, 5), torch.finfo(torch.float32).min)
    mask[..., 3:] = 0.0
    call = read(mask)
    assert call.fresh.visible.tolist() == [[[True, True], [True, True]]] * 2
    assert call.valid.all()


def test_positions_come_from_the_model_where_it_is_given_them():
    assert read(None, rope=torch.tensor([[7, 8]])).rope.tolist() == [[7, 8], [7, 8]]


def test_of_several_axes_those_of_text_count():
    text, image = torch.tensor([[0, 0, 1], [0, 1, 2]]), torch.tensor([[0, 0, 0], [0, 1, 1]])
    for rope, expected in (
        (torch.stack([text, text, image, image]), text.tolist()),
        (torch.stack([text] * 3), text.tolist()),
        (torch.stack([text, image, image]), [[3, 4, 5]] * 2),
    ):
        assert read(None, queries=3, rope=rope).rope.tolist() == expected


def test_the_mask_of_full_attention_is_found_among_several():
    full = torch.ones(1, 2)
    assert mask_of({"attention_mask": {"full_attention": full, "sliding_attention": None}}) is full
    assert mask_of({"attention_mask": full}) is full
    assert mask_of({}) is None


def test_layers_that_share_their_count_share_what_follows_from_it():
    call = read_call(torch.tensor([[0, 1, 1], [1, 1, 1]]), None, 2, 3, 4, "cpu")
    seen = torch.tensor([3, 4])
    positions, after = call.placed(seen)
    assert positions.tolist() == [[3, 3, 4], [4, 5, 6]]
    assert after.tolist() == [5, 7]
    again = call.placed(seen)
    assert (again[0] is positions, again[1] is after) == (True, True)
    assert call.placed(seen.clone())[1] is not after


def test_positions_of_a_row_are_a_fixed_number_ahead_of_its_true_tokens():
    mask = torch.tensor([[0, 0, 1], [0, 0, 0]])
    call, none = read_call(mask, None, 2, 3, 0, "cpu"), torch.zeros(2).long()
    # Columns were counted; the second row has not begun.
    offset = call.offset(none, none)
    assert offset.tolist() == [2, 0]
    assert call.offset(none, none.clone()) is offset
    later = read_call(torch.ones(2, 5), None, 2, 2, 3, "cpu")
    assert later.offset(torch.tensor([1, 0]), offset).tolist() == [2, 3]
    assert read_call(None, torch.tensor([[7]]), 2, 1, 0, "cpu").offset(none, none).tolist() == [7, 7]


def test_positions_that_jump_are_refused():
    call, seen = read_call(None, None, 2, 1, 3, "cpu"), torch.tensor([3, 2])
    with pytest.raises(DcacheError, match="positions must go on without gaps"):
        call.offset(seen, torch.tensor([0, 0]))
    assert call.offset(seen, torch.tensor([0, 1])).tolist() == [0, 1]
    # A pad lies between tokens of one call.
    call = read_call(torch.tensor([[1, 0, 1], [0, 1, 1]]), None, 2, 3, 0, "cpu")
    with pytest.raises(DcacheError, match="positions must go on without gaps"):
        call.offset(torch.zeros(2).long(), torch.zeros(2).long())
    counted = read_call(torch.tensor([[1, 0, 1]]), torch.tensor([[0, 0, 1]]), 1, 3, 0, "cpu")
    assert counted.offset(torch.zeros(1).long(), torch.zeros(1).long()).tolist() == [0]
