"""Needles: the answer to every question stands in its context, and nowhere else."""

from typing import Any

import pytest

from dcache.eval.language.needles import CONTINUATION, needles, sentences


class Words:
    """A tokenizer of words, as transformers' are called."""

    def __init__(self, chat_template: str | None = None) -> None:
        self.chat_template = chat_template
        self.words: list[str] = []

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        ids = []
        for word in text.replace(".", " . ").replace("?", " ? ").split():
            if word not in self.words:
                self.words.append(word)
            ids.append(self.words.index(word))
        return {"input_ids": ids}

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool) -> str:
        assert not tokenize
        return "".join(f"<{one['role']}>{one['content']}<end>" for one in messages)

    def text(self, ids: Any) -> str:
        return " ".join(self.words[i] for i in ids)


def test_the_prose_is_long_enough_for_contexts_of_thousands_of_tokens() -> None:
    prose = sentences()
    assert len(prose) == len(set(prose)) > 200
    assert not any("code of" in sentence for sentence in prose)


@pytest.mark.parametrize("template", [None, "a template"])
def test_every_answer_stands_in_its_context(template: str | None) -> None:
    words = Words(template)
    made = needles(words, 3, 4, 200, seed=5)
    assert len(made) == 3
    for context in made:
        text = words.text(context.ids)
        assert 200 <= len(context.ids) <= 200 + 4 * 8 + 10 + 60
        assert len(context.questions) == 4
        assert len({question.answer for question in context.questions}) == 4
        for question in context.questions:
            asked, answer = words.text(question.ids), words.text(question.answer)
            name = asked.split(" ? ")[0].rsplit(" ", 1)[1]
            assert text.count(f"The secret code of {name} is {answer} .") == 1
            assert text.count(answer) == 1
            assert asked.endswith(f"The secret code of {name} is")
        # What goes on after the text is prose that is not in it.
        assert 1 < len(context.continuation) <= CONTINUATION
        assert words.text(context.continuation[:8]) not in text


def test_a_chat_template_wraps_text_and_answer() -> None:
    words = Words("a template")
    (context,) = needles(words, 1, 1, 50, seed=0)
    assert words.text(context.ids).startswith("<user>Read this text .")
    assert "<end><assistant>The secret code of" in words.text(context.questions[0].ids)


def test_seeds_decide_everything() -> None:
    words = Words()
    assert needles(words, 2, 2, 60, seed=1) == needles(words, 2, 2, 60, seed=1)
    assert needles(words, 2, 2, 60, seed=1)[1] == needles(words, 1, 2, 60, seed=2)[0]
    assert needles(words, 1, 2, 60, seed=1) != needles(words, 1, 2, 60, seed=3)
