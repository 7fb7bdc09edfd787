import pytest
import torch

from dcache.lm_kv.storage.tail import LEAST, MOST, Tail


def columns(first: int, count: int) -> torch.Tensor:
    return torch.arange(first, first + count).float().view(1, 1, count, 1)


def tail(scored: bool = False) -> Tail:
    return Tail(columns(0, 3), columns(0, 3), () if scored else None)


def append(to: Tail, first: int, count: int, valid: list[bool] | None = None) -> None:
    positions = torch.arange(first, first + count)[None]
    mask = None if valid is None else torch.tensor([valid])
    to.append(columns(first, count), -columns(first, count), positions, mask)


def slots(of: Tail) -> int:
    return of.storages()[0].shape[2]


def test_a_new_tail_holds_nothing_of_what_it_was_shown():
    assert tail().length == 0
    assert slots(tail()) == 0


def test_columns_are_appended_and_the_slab_grows_by_an_eighth_within_bounds():
    one = tail()
    append(one, 0, 5)
    assert slots(one) == LEAST
    append(one, 5, 75)
    assert one.keys[0, 0, :, 0].tolist() == list(range(80))
    assert one.values[0, 0, 5, 0] == -5
    assert one.positions[0].tolist() == list(range(80))
    assert slots(one) == 80
    append(one, 80, 1)
    assert slots(one) == 80 + 10
    append(one, 81, 800)
    append(one, 881, 1)
    assert slots(one) == 881 + MOST
    assert one.keys[0, 0, :, 0].tolist() == list(range(882))


def test_a_prompt_gets_a_slab_of_its_size():
    one = tail()
    append(one, 0, 200)
    assert slots(one) == 200


def test_after_keeping_the_newest_there_is_no_spare_room_and_then_a_few_slots():
    one = tail()
    append(one, 0, 200)
    one.keep_newest(7)
    assert one.keys[0, 0, :, 0].tolist() == list(range(193, 200))
    assert slots(one) == 7
    append(one, 200, 1)
    assert slots(one) == 7 + LEAST
    assert one.keys[0, 0, :, 0].tolist() == list(range(193, 201))


def test_pads_are_masked_until_they_are_gone():
    one = tail()
    append(one, 0, 3, [False, True, True])
    assert one.padded
    assert one.valid.tolist() == [[False, True, True]]
    one.keep_newest(2)
    assert not one.padded


def test_the_newest_columns_are_dropped_and_written_over():
    one = tail()
    append(one, 0, 4)
    one.drop_newest(2)
    append(one, 9, 1)
    assert one.keys[0, 0, :, 0].tolist() == [0, 1, 9]


def test_statistics_start_at_zero_also_in_slots_that_were_used():
    one = tail(scored=True)
    append(one, 0, 2)
    one.score.add_(5.0)
    one.drop_newest(1)
    append(one, 1, 1)
    assert one.score.tolist() == [[[5.0, 0.0]]]


def test_rows_are_selected():
    two = Tail(torch.zeros(2, 1, 0, 1), torch.zeros(2, 1, 0, 1))
    two.append(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1), torch.zeros(2, 1, 1, 1), torch.zeros(2, 1), None)
    two.select_rows(torch.tensor([1, 1, 0]))
    assert two.keys.flatten().tolist() == [2, 2, 1]


def test_a_fork_shares_nothing():
    one = tail()
    append(one, 0, 2)
    other = one.fork()
    one.keys.fill_(7.0)
    append(one, 2, 1)
    assert other.keys.flatten().tolist() == [0, 1]


def test_what_was_made_under_inference_mode_is_copied_before_it_is_written_to():
    with torch.inference_mode():
        one = tail(scored=True)
        append(one, 0, 2)
    append(one, 2, 1)
    one.score.add_(1.0)
    assert one.keys.flatten().tolist() == [0, 1, 2]


def test_slots_that_held_pads_are_true_tokens_when_they_are_used_again():
    one = tail()
    append(one, 0, 4, [True, True, False, False])
    one.drop_newest(2)
    append(one, 2, 1)
    assert one.valid.tolist() == [[True, True, True]]


def test_columns_made_under_inference_mode_can_be_dropped_outside_it():
    with torch.inference_mode():
        one = tail(scored=True)
        append(one, 0, 3, [True, True, False])
        one.score.add_(5.0)
    one.drop_newest(2)
    append(one, 1, 1)
    assert one.valid.tolist() == [[True, True]]
    assert one.score.tolist() == [[[5.0, 0.0]]]


def test_statistics_made_under_inference_mode_may_be_written_outside_of_it():
    with torch.inference_mode():
        one = tail(scored=True)
        append(one, 0, 3)
    one.set_scores(torch.tensor([[[1.0, 2.0, 3.0]]]))
    one.add_scores(torch.ones(1, 1, 3))
    assert one.score.tolist() == [[[2.0, 3.0, 4.0]]]
    assert one.keys[0, 0, :, 0].tolist() == [0, 1, 2]


def test_a_rows_window_may_reach_behind_the_newest_columns():
    one = Tail(torch.zeros(2, 1, 3, 1), torch.zeros(2, 1, 3, 1))
    valid = torch.tensor([[True, True, False, True], [True, True, True, True]])
    states = torch.zeros(2, 1, 4, 1)
    one.append(states, states, torch.tensor([[0, 1, 1, 2], [0, 1, 2, 3]]), valid)
    newest = torch.tensor([[False, True, True, True], [False, False, True, True]])
    # A pad lies between the first row's two newest tokens.
    assert one.window(newest, 2).tolist() == [[False, True, False, True], [False, False, True, True]]
    assert one.window(newest, 3) is None


def test_what_attention_was_given_goes_with_its_column():
    one = Tail(columns(0, 3).repeat(2, 1, 1, 1), columns(0, 3).repeat(2, 1, 1, 1), width=2)
    states = columns(0, 6).repeat(2, 1, 1, 1)
    inputs = torch.stack([torch.arange(6.0), -torch.arange(6.0)], -1)
    given = torch.stack([inputs, 10 * inputs])
    one.append(states, states, torch.arange(6).repeat(2, 1), None, given)
    assert torch.equal(one.inputs, given)
    one.drop_newest(1)
    one.drop(torch.arange(5).repeat(2, 1) < 2)
    fork = one.fork()
    one.select_rows(torch.tensor([1, 0, 1]))
    assert torch.equal(one.inputs, given[[1, 0, 1], 2:5])
    assert torch.equal(fork.inputs, given[:, 2:5])
    assert sum(slab.shape[-1] == 2 for slab in fork.storages()) >= 1
    with pytest.raises(TypeError, match="keeps what attention was given"):
        one.append(states[[0, 0, 1], :, :1], states[[0, 0, 1], :, :1], torch.zeros(3, 1), None)
    assert tail().inputs is None
