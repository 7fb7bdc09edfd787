"""Policies on a small model: counts by hand, the uncached loop of each order, and what is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dcache
from dcache.diffusion_lm import enabled
from dcache.errors import DcacheError
from dcache.eval.diffusion_lm import evaluation
from dcache.eval.diffusion_lm.entries import parse
from dcache.eval.diffusion_lm.evaluation import evaluate
from dcache.eval.diffusion_lm.runs import run
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import Batch, RowSubject
from tests.diffusion_lm import masked_models as models

PROMPT, NEW = 4, 8


def scores(ids: torch.Tensor) -> list[float]:
    """Whether the first decoded token is even."""
    return [float(row[PROMPT] % 2 == 0) for row in ids.tolist()]


@pytest.fixture(scope="module")
def subject() -> RowSubject:
    def batches(count: int, length: int) -> list[Batch]:
        ids = models.prompts(count, PROMPT)
        return [Batch(ids[:2], scores), Batch(ids[2:], scores)]

    return RowSubject("small", models.llama(), batches, NEW, NEW, 1.0, "even", "dual")


SETTINGS = RowSettings(prompts=3, seeds=2)


def test_rows_of_every_policy_by_hand(subject: RowSubject) -> None:
    measured = evaluate(subject, parse("dual:block=4;window:window=2"), SETTINGS)
    assert [(one.label, one.order.text) for one in measured] == [
        ("none", "block 4"),
        ("dual block=4", "block 4"),
        ("none", "block 8, window 2"),
        ("window window=2", "block 8, window 2"),
    ]
    width = PROMPT + NEW
    for one in measured:
        # Two seeds of two batches: of two prompts and of one.
        assert [len(run["scores"]) for run in one.runs] == [2, 1, 2, 1]
        assert [run["possible"] for run in one.runs] == [n * NEW * width for n in (2, 1, 2, 1)]
        assert all(run["forwards"] == NEW for run in one.runs)
    # The uncached loop of a window decodes in it, too.
    with dcache.enabled(subject.model, dcache.methods.none(window=2)):
        (batch, _) = subject.batches(3, 0)
        ids = dcache.diffusion_lm.generate(subject.model, batch.ids, max_new_tokens=NEW, temperature=1.0)
    assert measured[2].runs[0]["tokens"] == ids[:, PROMPT:].tolist() != measured[0].runs[0]["tokens"]
    for one in measured[::2]:
        assert all(run["rows"] == run["possible"] for run in one.runs)
    # Two blocks of four steps: all rows in the first, four in each of the others.
    assert measured[1].runs[1]["rows"] == 2 * (width + 3 * 4)
    assert measured[1].runs[1]["refreshes"] == {"start": 1, "block": 1}
    assert measured[1].runs[1]["bytes_held"] > 0


def test_a_run_is_generates(subject: RowSubject) -> None:
    (batch, _) = subject.batches(3, 0)
    settings = SETTINGS.of(subject)
    for method in (None, dcache.methods.dkv(refresh=2)):
        done = run(subject, batch, method, 4, settings, seed=5)
        options: dict[str, Any] = {"max_new_tokens": NEW, "block": 4, "temperature": 1.0, "seed": 5}
        if method is None:
            ids = dcache.diffusion_lm.generate(subject.model, batch.ids, **options)
        else:
            with dcache.enabled(subject.model, method):
                ids = dcache.diffusion_lm.generate(subject.model, batch.ids, **options)
        assert done.tokens == ids[:, PROMPT:].tolist()
        assert done.scores == scores(ids)
    # Nothing stays enabled.
    assert enabled.find(subject.model) is None


def test_everything_is_run_once(subject: RowSubject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, int]] = []

    def counted(subject: Any, batch: Any, method: Any, block: int, settings: Any, seed: int) -> Any:
        calls.append((None if method is None else method.name, seed))
        return run(subject, batch, method, block, settings, seed)

    monkeypatch.setattr(evaluation, "run", counted)
    at: list[tuple[str, int, int]] = []
    first = evaluate(subject, parse("dual:block=4"), SETTINGS, tmp_path, lambda *now: at.append(now))
    assert calls == [(name, seed) for name in (None, "dual") for seed in (0, 0, 1, 1)]
    assert at[0] == ("none, block 4", 0, 8)
    assert at[-1] == ("done", 8, 8)
    assert evaluate(subject, parse("dual:block=4"), SETTINGS, tmp_path) == first
    assert len(calls) == 8
    # One more policy in the same order needs no other uncached loop.
    evaluate(subject, parse("dual:block=4;prefix:block=4"), SETTINGS, tmp_path)
    assert calls[8:] == [("prefix", 0)] * 2 + [("prefix", 1)] * 2
    (damaged, *_) = sorted((tmp_path / "runs").glob("dual*"))
    whole = json.loads(damaged.read_text())
    damaged.write_text("{")
    evaluate(subject, parse("dual:block=4"), SETTINGS, tmp_path)
    assert {**json.loads(damaged.read_text()), "seconds": 0} == {**whole, "seconds": 0}


def test_what_does_not_go_together_is_refused_before_anything_runs(
    subject: RowSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(evaluation, "run", lambda *given: calls.append(given))
    with pytest.raises(DcacheError, match="use decoder='random' or 'left'"):
        evaluate(subject, parse("dual;dkv:variant=greedy"), SETTINGS)
    assert not calls


def test_a_folder_of_other_settings_is_refused(subject: RowSubject, tmp_path: Path) -> None:
    evaluate(subject, parse("dual:block=4"), RowSettings(prompts=3, seeds=1), tmp_path)
    with pytest.raises(DcacheError, match=r"another evaluation \(seeds differ\)"):
        evaluate(subject, parse("dual:block=4"), SETTINGS, tmp_path)
