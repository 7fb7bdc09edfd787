"""Questions to one compressed context."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dcache import lm_kv
from dcache.eval.language.task import Context, Question


@dataclass(frozen=True)
class Answers:
    """Figures of one context under one policy and budget.

    Attributes:
        exact: of each question asked by itself, whether every token of the answer is the likeliest.
        nll: of each, the mean negative log-likelihood of a token of the answer, in nats.
        in_turns: of each question asked after all before it and their answers, as `exact`.
        continuation_nll: mean negative log-likelihood of a token of the continuation, in nats; None without.
        bytes_held, bytes_full: of the compressed cache, and of all keys and values.
        prefill_seconds: of the prompt and the compression.
    """

    exact: tuple[bool, ...]
    nll: tuple[float, ...]
    in_turns: tuple[bool, ...]
    continuation_nll: float | None
    bytes_held: int
    bytes_full: int
    prefill_seconds: float

    def plain(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


@torch.no_grad()
def ask(model: Any, policy: lm_kv.Policy, context: Context) -> Answers:
    """Compress a context, then ask all its questions.

    Nothing is evicted after that, so questions and answers are kept whole.

    Args:
        model: a causal language model of transformers.
        policy: with a budget.
        context: the context and its questions.
    """
    device = next(model.parameters()).device
    cache = lm_kv.KVCache(model, policy)
    began = time.perf_counter()
    with cache.hold():
        model(_row(context.ids, device), past_key_values=cache, logits_to_keep=1)
        cache.compress()
    seconds = time.perf_counter() - began
    stats = cache.stats()
    alone = [_answer(model, cache.fork(), question, device) for question in context.questions]
    conversation = cache.fork()
    in_turns = [_answer(model, conversation, question, device) for question in context.questions]
    return Answers(
        tuple(exact for exact, _ in alone),
        tuple(nll for _, nll in alone),
        tuple(exact for exact, _ in in_turns),
        _continuation(model, cache.fork(), context.continuation, device),
        stats.bytes_held,
        stats.bytes_full,
        seconds,
    )


def _answer(model: Any, cache: lm_kv.KVCache, question: Question, device: torch.device) -> tuple[bool, float]:
    """Whether the likeliest tokens are the answer, and its mean negative log-likelihood; both are stored."""
    answer = torch.tensor(question.answer, device=device)
    logits = _logits(model, cache, question.ids, question.answer)[-len(answer) - 1 : -1]
    chosen = logits.float().log_softmax(-1).gather(1, answer[:, None])
    return bool((logits.argmax(-1) == answer).all()), -float(chosen.mean())


def _continuation(model: Any, cache: lm_kv.KVCache, ids: Sequence[int], device: torch.device) -> float | None:
    if len(ids) < 2:
        return None
    logits = _logits(model, cache, (), ids)[:-1]
    return -float(logits.float().log_softmax(-1).gather(1, _row(ids[1:], device).mT).mean())


def _logits(model: Any, cache: lm_kv.KVCache, asked: Sequence[int], answer: Sequence[int]) -> torch.Tensor:
    """Logits `[n, vocabulary]` of a question and its answer behind a cache, which stores them.

    Nothing is evicted. Several tokens at once read everything, so a policy that selects gets one after the
    other; where a call of several tokens is a question that selects, it gets the question as a whole.
    """
    policy = cache.policy
    calls = [[token] for token in (*asked, *answer)]
    if policy.selector is None:
        calls = [[*asked, *answer]]
    elif policy.question is not None and asked:
        calls[: len(asked)] = [list(asked)]
    device = next(model.parameters()).device
    with cache.hold():
        logits = [model(_row(call, device), past_key_values=cache).logits[0] for call in calls]
    return torch.cat(logits)


def _row(ids: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([list(ids)], device=device)
