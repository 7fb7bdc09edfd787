"""What a search judges pictures by, without a model."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.eval.metrics.base import Batch, Metric, Reader, Sample, Score, Source
from dcache.schedule import Schedule
from dcache.search.evaluating.quality import QualityEvaluator

ANY = Schedule.of_steps([0], 4)


class Pictures:
    """Stands for a renderer: grey pictures, and brighter ones under a schedule."""

    prompts = ("a", "b")
    reference = np.full((2, 8, 8, 3), 0.25)

    def __init__(self, brightness: float = 0.5) -> None:
        self.brightness = brightness

    def pictures(self, _: Schedule) -> Any:
        return np.full((2, 8, 8, 3), self.brightness)

    def psnr(self, _: Any) -> list[float]:
        return [20.0, 30.0]


def metric(summary: Any, kinds: tuple[str, ...] = ("image", "video")) -> Metric:
    def read(batch: Batch) -> Any:
        return batch.pictures.reshape(len(batch.pictures), -1).mean(axis=1, keepdims=True)

    source = Source("brightness", lambda _: Reader("brightness", read))
    return Metric("bright", "B", "", "higher", "", 1, source, summary, {}, kinds=kinds)


def judge(*metrics: Metric, rungs: int = 2, brightness: float = 0.5) -> QualityEvaluator:
    found = QualityEvaluator(SimpleNamespace(kind="image"), [["a", "b"]] * rungs)  # type: ignore[arg-type]
    found.chosen = [*found.chosen, *metrics]
    found.renderers = dict.fromkeys(range(rungs), Pictures(brightness))  # type: ignore[arg-type]
    return found


def each(sample: Sample) -> Score:
    return Score(float(sample.rows.mean()), each=[float(v) for v in sample.rows[:, 0]])


def test_values_and_those_of_each_picture() -> None:
    found = judge(metric(each)).evaluate(ANY, 0)
    assert found["values"] == {"psnr": 25.0, "bright": 128.0}
    assert found["each"] == {"psnr": [20.0, 30.0], "bright": [128.0, 128.0]}


def test_broken_pictures_have_no_values() -> None:
    found = judge(brightness=float("nan")).evaluate(ANY, 0)
    assert found["values"] == {"psnr": None}


def test_a_metric_of_all_pictures_together_has_no_mean_over_rungs() -> None:
    together = metric(lambda sample: Score(float(sample.rows.std())))
    with pytest.raises(DcacheError, match=r"cannot be averaged over rungs of prompts.*--first 4"):
        judge(together).evaluate(ANY, 0)
    assert judge(together, rungs=1).evaluate(ANY, 0)["values"]["bright"] == 0.0


def test_a_metric_of_videos_is_refused_for_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcache.search.evaluating.quality.chosen", lambda _: [metric(each, kinds=("video",))])
    with pytest.raises(DcacheError, match="bright is not defined for images"):
        judge()


def test_weights_are_not_fitted_on_one_prompt() -> None:
    alone = QualityEvaluator(SimpleNamespace(kind="image"), [["a"]])  # type: ignore[arg-type]
    with pytest.raises(DcacheError, match="checked on others: give two or more"):
        alone.fit(ANY)


def test_whether_there_are_halves_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def look(_subject: Any, prompt: str, _seed: int) -> bool:
        looked.append(prompt)
        return False

    monkeypatch.setattr("dcache.search.evaluating.quality.paired", look)
    found = judge()
    assert not found.paired
    assert not found.paired
    assert looked == ["a"]


def test_weights_are_fitted_on_the_rest_and_checked_on_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judge()
    first, rest = Pictures(), Pictures()
    found.renderers = {0: first, 1: rest}  # type: ignore[dict-item]
    fitting, checking = found.parts
    assert fitting is rest
    assert checking is first
    # Of one rung the first third is checked on; every picture keeps its seed.
    monkeypatch.setattr("dcache.search.evaluating.quality.Renderer", lambda _subject, *what: what)
    alone = QualityEvaluator(SimpleNamespace(kind="image"), [list("abcdefg")], seed=5)  # type: ignore[arg-type]
    assert alone.parts == ((list("cdefg"), 7, 8), (list("ab"), 5, 8))
