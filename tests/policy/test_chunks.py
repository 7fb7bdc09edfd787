"""Chunks: which method of a policy makes them."""

import pytest
import torch

from dcache import DcacheError
from dcache.policy.chunks import Chunks, chunk_method
from tests.policies import Decoder, made


class Policy(torch.nn.Module):
    def select_action(self, observation: float) -> torch.Tensor:
        """A single action."""
        return torch.zeros(2)

    def predict_action_chunk(self, observation: float) -> torch.Tensor:
        return torch.full((1, 3, 2), observation)


def test_a_policy_makes_chunks_by_its_method_and_a_function_by_its_call() -> None:
    assert Chunks(Policy()).make(5.0).tolist() == [[[5.0, 5.0]] * 3]
    assert Chunks(lambda observation: torch.full((1, 1), observation)).make(2.0).tolist() == [[2.0]]


def test_a_module_without_such_a_method_is_refused() -> None:
    with pytest.raises(DcacheError, match=r"looked for predict_action_chunk, .*Loop\(lambda observation"):
        chunk_method(made(Decoder))


def test_chunks_of_an_uncached_policy_have_no_stats() -> None:
    chunks = Chunks(Policy())
    chunks.make(1.0)
    assert chunks.stats() is None
    assert chunks.counts.chunks == 1
