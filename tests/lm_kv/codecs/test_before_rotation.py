import torch

from dcache.lm_kv.codecs.before_rotation import on_basis, places_of, turned_by
from dcache.lm_kv.codecs.codec import LayerFacts


def test_every_token_has_its_run_and_its_place():
    run, places = places_of(torch.tensor([2, 0, 3]))
    assert run.tolist() == [0, 0, 2, 2, 2]
    assert places.tolist() == [0, 1, 0, 1, 2]


def test_states_are_turned_by_their_places_or_stay_without_a_rotation():
    states, positions = torch.ones(3, 2).half(), torch.tensor([0, 1, 2])
    assert torch.equal(turned_by(LayerFacts(), states, positions, "back"), states.float())
    facts = LayerFacts(lambda states, positions, mode: states * positions[:, None, :, None])
    assert turned_by(facts, states, positions, "back").tolist() == [[0, 0], [1, 1], [2, 2]]


def test_keys_meet_the_directions_of_their_heads():
    basis = torch.stack([torch.eye(3), torch.eye(3).flip(0)])
    keys = torch.tensor([[1.0, 2, 3], [1, 2, 3], [4, 5, 6]])
    # Two rows of two heads; the third run is the second row's first head.
    low = on_basis(keys, torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1, 0]), basis, 1)
    assert low.left.tolist() == [[1], [3], [4]]
    assert low.add_to(torch.zeros(3, 3)).tolist() == [[1, 0, 0], [0, 0, 3], [4, 0, 0]]
