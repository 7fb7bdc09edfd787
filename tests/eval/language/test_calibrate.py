"""A calibration measures each text once, and goes on where it stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.eval.language import calibrate as module
from dcache.eval.language.calibrate import calibrate, plain, table
from dcache.eval.language.settings import LanguageSettings
from dcache.eval.language.subject import LanguageSubject
from dcache.eval.language.task import Context, Question
from dcache.lm_kv.calibrating.key_statistics import basis_of, key_statistics
from dcache.lm_kv.calibrating.sensitivity import layer_sensitivity
from tests.lm_kv.language_models import llama

SETTINGS = LanguageSettings(contexts=2, questions=1)


def contexts(count: int, questions: int, tokens: int, seed: int) -> list[Context]:
    draw = torch.Generator().manual_seed(seed)
    texts = torch.randint(2, 97, (count, 48), generator=draw).tolist()
    return [Context(tuple(text[:40]), (Question((5, 6), tuple(text[40:])),)) for text in texts]


@pytest.fixture
def subject() -> LanguageSubject:
    return LanguageSubject("toy", llama(2), contexts)


def test_it_has_the_means_over_texts(subject: LanguageSubject, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    measured = calibrate(subject, SETTINGS, tmp_path / "a", lambda *at: told.append(at))
    texts = [torch.tensor([context.ids]) for context in contexts(2, 1, 0, 0)]
    probes = [
        torch.tensor([[*q.ids, *q.answer]]) for context in contexts(2, 1, 0, 0) for q in context.questions
    ]
    expected = torch.tensor(
        [layer_sensitivity(subject.model, t, p) for t, p in zip(texts, probes, strict=True)]
    )
    torch.testing.assert_close(measured.tensors["sensitivity"], expected.mean(0))
    statistics = [key_statistics(subject.model, text) for text in texts]
    moments = (statistics[0].moments[1] + statistics[1].moments[1]) / 2
    torch.testing.assert_close(measured.tensor("variance", 1), basis_of(moments)[1].float())
    importance = (statistics[0].importance[1] + statistics[1].importance[1]).argsort(-1, descending=True)
    assert torch.equal(measured.tensor("channels", 1).long(), importance)
    assert measured.pattern == lm_kv.head_pattern(subject.model)
    # Four steps of layers behind the pattern's.
    assert told == [
        ("head pattern", 0, 5),
        *[(f"text {1 + i // 2}", 1 + i, 5) for i in range(4)],
        ("done", 5, 5),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_it_goes_on_where_it_stopped(
    subject: LanguageSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = calibrate(subject, SETTINGS, tmp_path / "whole")
    read: list[int] = []

    def breaks(model: Any, text: torch.Tensor) -> Any:
        read.append(int(text[0, 0]))
        if len(read) == 2:
            raise KeyboardInterrupt
        return key_statistics(model, text)

    monkeypatch.setattr(module, "key_statistics", breaks)
    with pytest.raises(KeyboardInterrupt):
        calibrate(subject, SETTINGS, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    again = calibrate(subject, SETTINGS, tmp_path / "a")
    # The second text, once more.
    assert read == [read[0], read[1], read[1]]
    assert again.tensors.keys() == whole.tensors.keys()
    for name, tensor in whole.tensors.items():
        assert torch.equal(again.tensors[name], tensor)
    (tmp_path / "a.part").write_bytes(b"left by one that was killed behind its last step")
    assert calibrate(subject, SETTINGS, tmp_path / "a").tensors is again.tensors
    assert not (tmp_path / "a.part").exists()
    assert len(read) == 3


@pytest.mark.parametrize("name", ["a", "a.part"])
def test_files_of_other_settings_are_refused(subject: LanguageSubject, tmp_path: Path, name: str) -> None:
    calibrate(subject, SETTINGS, tmp_path / "a").path.rename(tmp_path / name)
    with pytest.raises(
        DcacheError, match=r"is another calibration \(settings differ\): choose another --out"
    ):
        calibrate(subject, LanguageSettings(contexts=3, questions=1), tmp_path / "a")
    half = LanguageSubject("toy", llama(2).bfloat16(), contexts)
    with pytest.raises(DcacheError, match=r"\(dtype, weights differ\)"):
        calibrate(half, SETTINGS, tmp_path / "a")
    with pytest.raises(DcacheError, match=r"\(model, weights, facts differ\)"):
        calibrate(LanguageSubject("other", llama(1), contexts), SETTINGS, tmp_path / "a")


def test_the_table_has_a_line_for_each_layer(subject: LanguageSubject, tmp_path: Path) -> None:
    measured = calibrate(subject, SETTINGS, tmp_path / "a")
    lines, rows = table(measured).splitlines(), plain(measured)["layers"]
    assert [row["layer"] for row in rows] == [0, 1]
    for line, row in zip(lines[1:], rows, strict=True):
        variance = measured.tensor("variance", row["layer"])
        needed = [next(n for n in range(1, 17) if v[:n].sum() >= 0.9 * v.sum()) for v in variance]
        reach = [f"{value:.2f}" for value in row["reach"]]
        expected = [str(row["layer"]), f"{row['sensitivity']:.4f}", f"{sum(needed) / 2:.0f}", *reach]
        assert line.split() == expected
