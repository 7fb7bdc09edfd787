"""Settings of an evaluation of KV cache policies, checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, fields

from dcache.eval.limits import LIMITS, Whole, check_within

TOKENS = Whole(32)
_LIMITS = {"contexts": Whole(1), "questions": Whole(1, 12), "tokens": TOKENS, "seed": LIMITS["seed"]}


@dataclass(frozen=True)
class LanguageSettings:
    """Number, length and seed of the texts, and of the questions to each.

    Attributes:
        contexts: number of contexts.
        questions: questions to each context.
        tokens: tokens of a context; shipped models have contexts of one length.
        seed: seed of the contexts.
    """

    contexts: int = 4
    questions: int = 4
    tokens: int = 900
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            DcacheError: a number is out of range.
        """
        for field in fields(self):
            check_within(_LIMITS[field.name], getattr(self, field.name), field.name)
