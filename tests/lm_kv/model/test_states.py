import torch

from dcache.lm_kv.model.states import States


def test_room_is_made_once_and_written_to():
    states, like = States(), torch.ones(1, 2, 3, 4)
    states.reserve(5, 7, like, like[..., :2])
    states.put(5, torch.tensor([1, 6]), like[:, :, :2], like[:, :, :2, :2])
    states.put(5, slice(2, 3), like[:, :, :1], like[:, :, :1, :2])
    assert states.values[5].shape == (1, 2, 7, 2)
    assert states.keys[5][0, 0, :, 0].tolist() == [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    states.reserve(5, 9, like, like)
    assert states.keys[5].shape == (1, 2, 7, 4)


def test_a_part_is_a_copy():
    states = States({0: torch.arange(6.0).view(1, 1, 3, 2)}, {0: torch.ones(1, 1, 3, 2)})
    part = states.part(1, 3)
    part.keys[0].zero_()
    assert part.values[0].shape == (1, 1, 2, 2)
    assert states.keys[0].flatten().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
