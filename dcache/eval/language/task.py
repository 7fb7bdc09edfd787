"""Contexts and questions, as token ids."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question and its answer.

    Attributes:
        ids: tokens of the question.
        answer: tokens of the right answer.
    """

    ids: tuple[int, ...]
    answer: tuple[int, ...]


@dataclass(frozen=True)
class Context:
    """A text that is compressed before any question is known.

    Attributes:
        ids: its tokens.
        questions: each is asked of the compressed text by itself, then all in turns, as in a conversation.
        continuation: tokens that go on after the text; () to measure no likelihood of them.
    """

    ids: tuple[int, ...]
    questions: tuple[Question, ...]
    continuation: tuple[int, ...] = ()
