"""Ranks of candidates."""

import torch

from dcache.diffusion_lm.decoders.base import Proposal, ranks


def test_ranks_fall_with_the_score_and_ties_go_to_the_left():
    candidates = torch.tensor([[True, False, True, True]])
    assert ranks(torch.tensor([[0.5, 0.9, 0.7, 0.5]]), candidates)[candidates].tolist() == [1, 0, 2]


def test_before_the_forward_there_are_no_tokens():
    ids = torch.tensor([[1, 2]])
    proposal = Proposal(ids, ids > 1, ids[:, 0], ids.double())
    assert proposal.tokens_or(ids) is ids
