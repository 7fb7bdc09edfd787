"""Needles in prose: five-digit codes of people between sentences of Python's own documentation."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from dcache.eval.language.task import Context, Question

NAMES = (
    "Alice", "Victor", "Sophia", "Marcus", "Helen", "Oscar",
    "Diana", "Felix", "Norman", "Paula", "Simon", "Laura",
)  # fmt: skip
# Sentences before the first needle and behind the last one.
MARGIN = 3
# Tokens of the continuation whose likelihood is measured.
CONTINUATION = 128


def sentences() -> list[str]:
    """Sentences of plain prose in the standard library's help pages (`pydoc_data.topics`)."""
    from pydoc_data.topics import topics

    long = (text for _, text in sorted(topics.items()) if len(text) > 3000)
    text = re.sub(r"\s+", " ", " ".join(long))
    parts = re.split(r"(?<=[a-z]\.) ", text)
    plain = (part for part in parts if 40 < len(part) < 300 and re.match(r"^[A-Z][\w ,.'-]+$", part))
    # Some stand in several pages.
    return list(dict.fromkeys(plain))


def needles(tokenizer: Any, count: int, questions: int, tokens: int, seed: int) -> list[Context]:
    """Contexts of prose, each with the codes of some people, and a question for each code.

    Args:
        tokenizer: of transformers; its chat template is used where it has one.
        count: number of contexts.
        questions: people in each context, at most 12.
        tokens: length of a context's prose, without needles.
        seed: seed of the sentences' order, of names and codes.
    """
    prose = sentences()
    return [_context(tokenizer, prose, questions, tokens, random.Random(seed + i)) for i in range(count)]


def _context(
    tokenizer: Any, prose: Sequence[str], questions: int, tokens: int, draw: random.Random
) -> Context:
    order = draw.sample(prose, len(prose))
    lengths = [len(_ids(tokenizer, sentence)) for sentence in order]
    used = next((i for i in range(len(order)) if sum(lengths[: i + 1]) > tokens), len(order))
    body = order[:used]
    codes = {name: str(draw.randint(10_000, 99_999)) for name in draw.sample(NAMES, questions)}
    for name, code in codes.items():
        place = draw.randint(min(MARGIN, len(body)), max(MARGIN, len(body) - MARGIN))
        body.insert(place, f"The secret code of {name} is {code}.")
    before, between, after = _turns(tokenizer)
    return Context(
        tuple(_ids(tokenizer, f"{before}Read this text.\n") + _ids(tokenizer, " ".join(body))),
        tuple(
            Question(
                tuple(
                    _ids(
                        tokenizer,
                        f"{between}What is the secret code of {name}?{after}The secret code of {name} is",
                    )
                ),
                tuple(_ids(tokenizer, f" {code}")),
            )
            for name, code in codes.items()
        ),
        tuple(_ids(tokenizer, " " + " ".join(order[used : used + 12]))[:CONTINUATION]),
    )


def _turns(tokenizer: Any) -> tuple[str, str, str]:
    """The template's text before the user's, between it and the question, and before the answer."""
    if getattr(tokenizer, "chat_template", None) is None:
        return "", "\n\nQuestion: ", "\nAnswer: "
    mark, answer = "<text>", "<answer>"
    messages = [{"role": "user", "content": mark}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    before, _, rest = text.partition(mark)
    return before, "\n\n", rest.partition(answer)[0]


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids
