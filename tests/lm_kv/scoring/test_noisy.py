from dataclasses import replace

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.noisy import NoisyReceived, NoisySums
from dcache.lm_kv.scoring.observers import Observed
from dcache.lm_kv.storage.stored import Stored
from tests.lm_kv.scoring.test_scorers import context, stored

HEADS, TOKENS, SIZE = 2, 6, 4


def tokens(score: torch.Tensor | None = None) -> Stored:
    torch.manual_seed(0)
    keys = torch.randn(1, 1, TOKENS, SIZE)
    valid = torch.ones(1, 1, TOKENS, dtype=torch.bool)
    positions = torch.arange(TOKENS).view(1, 1, -1)
    score = torch.zeros(1, 1, TOKENS, 2) if score is None else score
    return Stored(keys, keys, positions, valid, score=score)


def observed(observer: NoisySums, calls: list[list[int]], pads: int = 0) -> dict[str, torch.Tensor]:
    """The state after calls with tokens at these positions, the first of them behind pads."""
    state: dict[str, torch.Tensor] = {}
    for call in calls:
        query = torch.randn(
            1, HEADS, pads + len(call), SIZE, generator=torch.Generator().manual_seed(call[0])
        )
        valid = torch.ones(1, pads + len(call), dtype=torch.bool)
        valid[:, :pads] = False
        positions = torch.tensor([[0] * pads + call])
        state = observer.observe(state, Observed(query, valid, positions, query.clone))
        pads = 0
    return state


def test_every_query_gives_all_its_attention_once():
    observer = NoisySums(16, 0.01, 0)
    state = observed(observer, [[0, 1, 2, 3], [4]])
    settled = observer.settle(state, tokens(), Logits(1.0))
    assert float(settled[..., 0].sum()) == pytest.approx(5.0)
    assert settled[..., 1].tolist() == [[[5.0] * TOKENS]]
    # The same queries again add nothing; the next one adds its own.
    again = observer.settle(state, tokens(settled), Logits(1.0))
    assert torch.equal(again, settled)
    more = observer.settle(observed(observer, [[0, 1, 2, 3], [4], [5]]), tokens(settled), Logits(1.0))
    assert float(more[..., 0].sum()) == pytest.approx(6.0)
    # Nobody attends to what comes later.
    assert settled[0, 0, 5, 0] == 0


def test_the_temperature_grows_with_decoded_tokens_and_makes_attention_even():
    state = observed(NoisySums(1, 1e9, 0), [[0, 1, 2, 3, 4], [5]])
    hot = NoisySums(1, 1e9, 0).settle(state, tokens(), Logits(1.0))
    torch.testing.assert_close(hot[..., 0], torch.full((1, 1, TOKENS), 1 / TOKENS))
    # A prompt's queries have the temperature 1, whatever it grows by.
    prompt = observed(NoisySums(8, 0.0, 0), [[0, 1, 2, 3, 4, 5]])
    cold = [NoisySums(8, growth, 0).settle(prompt, tokens(), Logits(1.0)) for growth in (0.0, 1e9)]
    assert torch.equal(*cold)


def test_noise_moves_attention_and_depends_on_its_seed():
    state = observed(NoisySums(8, 0.0, 0), [[0, 1, 2, 3, 4, 5]])
    first, same, other = (NoisySums(8, 0.0, seed).settle(state, tokens(), Logits(1.0)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def test_noise_is_gumbels():
    # Of equal logits softmax(g / 1) has the same mean everywhere; the largest wins equally often.
    observer, size = NoisySums(4096, 0.0, 3), 4096
    query = torch.zeros(1, 1, size, SIZE)
    positions = torch.full((1, size), 3) + torch.arange(size)
    call = Observed(query, torch.ones(1, size, dtype=torch.bool), positions, lambda: query)
    one = tokens()
    few = replace(one, score=torch.zeros(1, 1, TOKENS, 2), valid=one.positions < 4)
    mean = observer.settle(observer.observe({}, call), few, Logits(1.0))[0, 0, :4, 0] / size
    # Softmax of 4 independent Gumbel numbers has a standard deviation below .3: .3 / 64 is .005.
    torch.testing.assert_close(mean, torch.full((4,), 0.25), atol=0.02, rtol=0)


def test_pads_are_no_queries():
    observer = NoisySums(8, 0.01, 0)
    alone, padded = observed(observer, [[0, 1, 2, 3]]), observed(observer, [[0, 1, 2, 3]], pads=0)
    assert torch.equal(alone["prompt"], padded["prompt"])
    assert observed(observer, [[0, 1, 2]], pads=2)["prompt"].tolist() == [3]


def test_a_prompt_of_which_tokens_are_taken_back_ends_before_them():
    observer = NoisySums(8, 1.0, 0)
    state = observer.crop(observed(observer, [[0, 1, 2, 3]]), torch.tensor([2]))
    assert state["prompt"].tolist() == [2]
    assert state["valid"].tolist() == [[True, True, False, False]]
    assert observer.crop({}, torch.tensor([2])) == {}
    # The next token is the first decoded one behind it: its temperature is 2, that of logits by half.
    query = torch.randn(1, HEADS, 1, SIZE)
    call = Observed(query, torch.ones(1, 1, dtype=torch.bool), torch.tensor([[2]]), query.clone)
    hot = observer.settle(observer.observe(state, call), tokens(), Logits(1.0))
    state["valid"][:] = True
    cold = {**observer.observe(state, call), "prompt": torch.tensor([3])}
    assert not torch.allclose(hot, observer.settle(cold, tokens(), Logits(1.0)))


def test_the_score_needs_its_observer():
    with pytest.raises(DcacheError, match="give its policy the observer NoisySums"):
        NoisyReceived().score(stored([[1.0]], score=[1.0]), context(1))
