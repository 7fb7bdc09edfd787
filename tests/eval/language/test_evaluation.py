"""The evaluation keeps what is done, and does not do it again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dcache.errors import DcacheError
from dcache.eval.language import evaluation
from dcache.eval.language.ask import Answers
from dcache.eval.language.evaluation import evaluate
from dcache.eval.language.policies import parse
from dcache.eval.language.settings import LanguageSettings
from dcache.eval.language.subject import LanguageSubject
from dcache.eval.language.task import Context, Question

SETTINGS = LanguageSettings(contexts=2, questions=1)


def contexts(count: int, questions: int, tokens: int, seed: int) -> list[Context]:
    return [Context((i,), (Question((1,), (2,)),) * questions) for i in range(count)]


SUBJECT = LanguageSubject("toy", torch.nn.Linear(1, 1), contexts)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """What was asked: (budget, context)."""
    calls: list[tuple[Any, int]] = []

    def ask(model: Any, policy: Any, context: Context) -> Answers:
        calls.append((policy.budget, context.ids[0]))
        return Answers((True,), (0.5,), (False,), None, 10, 40, 0.1)

    monkeypatch.setattr(evaluation, "ask", ask)
    return calls


def test_everything_is_asked_once(asked: list[tuple[Any, int]], tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    entries = parse("kvzip;random:budget=8")
    done = evaluate(SUBJECT, entries, [0.5, 16], SETTINGS, tmp_path, lambda *at: told.append(at))
    names = ["full", "kvzip, 50 %", "kvzip, 16 tokens", "random budget=8, 8 tokens"]
    assert [one.name for one in done] == names
    assert asked == [(budget, context) for budget in (1.0, 0.5, 16, 8) for context in (0, 1)]
    assert told[0] == ("full", 0, 8)
    assert told[-1] == ("done", 8, 8)

    again = evaluate(SUBJECT, entries, [0.5, 16], SETTINGS, tmp_path)
    assert len(asked) == 8
    assert again == done
    # One more budget is one more policy for two contexts.
    evaluate(SUBJECT, entries, [0.5, 0.125], SETTINGS, tmp_path)
    assert asked[8:] == [(0.125, 0), (0.125, 1)]


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"exact": []}'])
def test_a_damaged_answer_is_asked_again(asked: list[tuple[Any, int]], tmp_path: Path, damage: str) -> None:
    done = evaluate(SUBJECT, [], [], SETTINGS, tmp_path)
    (tmp_path / "answers" / "full.1.json").write_text(damage)
    assert evaluate(SUBJECT, [], [], SETTINGS, tmp_path) == done
    assert asked == [(1.0, 0), (1.0, 1), (1.0, 1)]


def test_a_folder_of_other_settings_is_refused(asked: list[tuple[Any, int]], tmp_path: Path) -> None:
    evaluate(SUBJECT, [], [], SETTINGS, tmp_path)
    with pytest.raises(DcacheError, match=r"another evaluation \(seed differ\)"):
        evaluate(SUBJECT, [], [], LanguageSettings(contexts=2, questions=1, seed=3), tmp_path)
    half = LanguageSubject("toy", torch.nn.Linear(1, 1).bfloat16(), contexts)
    with pytest.raises(DcacheError, match=r"\(dtype, weights differ\)"):
        evaluate(half, [], [], SETTINGS, tmp_path)
    other = LanguageSubject("another", SUBJECT.model, contexts)
    with pytest.raises(DcacheError, match=r"\(model differ\)"):
        evaluate(other, [], [], SETTINGS, tmp_path)
    trained = LanguageSubject("toy", torch.nn.Linear(1, 1), contexts)
    with pytest.raises(DcacheError, match=r"\(weights differ\)"):
        evaluate(trained, [], [], SETTINGS, tmp_path)
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(DcacheError, match="another evaluation"):
        evaluate(SUBJECT, [], [], SETTINGS, tmp_path)
    assert len(asked) == 2
