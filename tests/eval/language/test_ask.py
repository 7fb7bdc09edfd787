"""Answers from a cache that keeps everything are those of one forward over all tokens."""

from typing import Any

import pytest
import torch

from dcache import lm_kv
from dcache.eval.language.ask import ask
from dcache.eval.language.task import Context, Question

FULL = lm_kv.keydiff(budget=1.0)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        initializer_range=0.3,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


CONTEXT = Context(
    tuple(range(5, 45)),
    (Question((7, 9), (11, 12, 13)), Question((8,), (30,))),
    (20, 21, 22, 23),
)


@torch.no_grad()
def uncached(model: Any, before: tuple[int, ...], answer: tuple[int, ...]) -> tuple[bool, float]:
    """Whether the likeliest tokens after `before` are the answer, and its mean likelihood."""
    logits = model(torch.tensor([[*before, *answer]])).logits[0, len(before) - 1 : -1]
    wanted = torch.tensor(answer)
    return bool((logits.argmax(-1) == wanted).all()), torch.nn.functional.cross_entropy(logits, wanted).item()


def test_with_all_tokens_they_are_the_models_own(model: Any) -> None:
    answers = ask(model, FULL, CONTEXT)
    first, second = CONTEXT.questions
    alone = [uncached(model, CONTEXT.ids + one.ids, one.answer) for one in CONTEXT.questions]
    assert answers.exact == tuple(exact for exact, _ in alone)
    assert answers.nll == pytest.approx([nll for _, nll in alone], rel=1e-5)
    # The second question of a conversation comes after the first one and its answer.
    after = (*CONTEXT.ids, *first.ids, *first.answer, *second.ids)
    assert answers.in_turns == (alone[0][0], uncached(model, after, second.answer)[0])
    begin, *rest = CONTEXT.continuation
    _, text = uncached(model, (*CONTEXT.ids, begin), tuple(rest))
    assert answers.continuation_nll == pytest.approx(text, rel=1e-5)


def test_a_right_answer_is_exact(model: Any) -> None:
    with torch.no_grad():
        right = int(model(torch.tensor([[*CONTEXT.ids, 7]])).logits[0, -1].argmax())
    context = Context(CONTEXT.ids, (Question((7,), (right,)), Question((7,), ((right + 1) % 60,))))
    answers = ask(model, FULL, context)
    assert answers.exact == (True, False)
    assert answers.continuation_nll is None


def test_what_is_evicted_is_not_read_and_not_counted(model: Any) -> None:
    kept = ask(model, lm_kv.keydiff(window=2, budget=0.25), CONTEXT)
    full = ask(model, FULL, CONTEXT)
    assert kept.nll != pytest.approx(full.nll, rel=1e-3)
    assert kept.bytes_held < 0.45 * kept.bytes_full
    # 40 tokens, keys and values, 2 layers, 2 heads, 8 channels, float32.
    assert kept.bytes_full == full.bytes_full == 40 * 2 * 2 * 2 * 8 * 4


@torch.no_grad()
@pytest.mark.parametrize("policy", [lm_kv.actqkv(page=2, window=2, budget=8), lm_kv.rekv(page=2, budget=8)])
def test_where_a_question_selects_it_is_one_call_and_its_answer_follows(
    model: Any, policy: lm_kv.Policy
) -> None:
    cache, question = lm_kv.KVCache(model, policy), CONTEXT.questions[0]
    with cache.hold():
        model(torch.tensor([CONTEXT.ids]), past_key_values=cache)
        cache.compress()
        asked = model(torch.tensor([question.ids]), past_key_values=cache).logits[0, -1]
        steps = [
            model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1] for token in question.answer
        ]
    logits = torch.stack([asked, *steps[:-1]])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(question.answer)).item()
    assert ask(model, policy, CONTEXT).nll[0] == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_policy_that_selects_reads_a_part_at_every_token(model: Any) -> None:
    policy = lm_kv.quest(page=2, window=2, budget=8)
    answers = ask(model, policy, CONTEXT)
    assert answers.nll != pytest.approx(ask(model, FULL, CONTEXT).nll, rel=1e-3)
    # Token by token, the first question's answer is that of a loop over decoded tokens.
    cache, question = lm_kv.KVCache(model, policy), CONTEXT.questions[0]
    with cache.hold():
        model(torch.tensor([CONTEXT.ids]), past_key_values=cache)
        cache.compress()
        steps = [
            model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1]
            for token in (*question.ids, *question.answer)
        ]
    logits = torch.stack(steps[1:-1])
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(question.answer)).item()
    assert answers.nll[0] == pytest.approx(expected, rel=1e-5)
