"""An evaluation from what is asked for to its files: stages apart and together, and what is refused when."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import dcache.eval
from dcache.errors import DcacheError
from dcache.eval import evaluation
from dcache.eval.evaluation import evaluate, usual_metrics
from dcache.eval.folder import alone
from dcache.eval.manifest import FILE
from dcache.eval.settings import Settings
from dcache.eval.subject import load
from tests.eval.fake_pipeline import BLUE, PROMPTS, RED, Painter, contents

SETTINGS = Settings(images_per_prompt=2, seed=7, batch_size=4, device="cpu")
PSNR: dict[str, Any] = {"metrics": ["psnr"]}


@pytest.fixture
def painter(monkeypatch: pytest.MonkeyPatch) -> Painter:
    """What every name is loaded as."""
    painter = Painter()
    monkeypatch.setattr(evaluation, "load", lambda *_, **__: painter)
    return painter


def no_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "load", lambda *_, **__: pytest.fail("the pipeline was loaded"))


def test_all_stages_leave_pictures_scores_and_a_report(painter: Painter, tmp_path: Path) -> None:
    told: list[str] = []
    result = evaluate(
        "painter", PROMPTS, [RED], SETTINGS, out=tmp_path, **PSNR, progress=lambda what, *_: told.append(what)
    )
    assert result.scores is not None
    assert result.scores == json.loads((tmp_path / "scores.json").read_text())
    assert [path.name for path in result.files] == ["report.html", "report.md", "report.json"]
    assert all(path.stat().st_size for path in result.files)
    each = result.scores["methods"]["red-00000000"]["psnr"]["each"]
    # Uniform noise against other uniform noise: a mean square of 1 / 6.
    assert each == pytest.approx([7.8] * 6, abs=1.5)
    assert result.unfinished == []
    assert result.store.settings["prompts"].startswith("3 (")
    assert {"uncached", "red", "psnr", "scores"} <= set(told)


def test_stages_run_apart_give_the_same(painter: Painter, tmp_path: Path, monkeypatch: Any) -> None:
    together = evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path / "a", **PSNR)
    out = tmp_path / "b"
    made = evaluate("painter", PROMPTS, [RED], SETTINGS, out=out, stages=["generate"])
    assert (made.scores, made.files) == (None, [])
    with pytest.raises(DcacheError, match=r"cannot read .*scores\.json.*Run the score stage"):
        evaluate(out=out, stages=["report"])
    no_loading(monkeypatch)
    scored = evaluate(out=out, stages=["score"], **PSNR)
    assert (scored.scores, scored.files) == (together.scores, [])
    assert len(evaluate(out=out, stages=["report"]).files) == 3
    assert contents(out) == contents(tmp_path / "a")


def test_a_second_run_makes_nothing_and_says_the_same(painter: Painter, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"methods": [RED], "settings": SETTINGS, "out": tmp_path, **PSNR}
    first = evaluate("painter", PROMPTS, **asked)
    painter.pipe.calls.clear()
    before = contents(tmp_path)
    assert evaluate("painter", PROMPTS, **asked).scores == first.scores
    assert painter.pipe.calls == []
    assert contents(tmp_path) == before


def test_a_method_added_is_made_and_scored_beside_the_others(painter: Painter, tmp_path: Path) -> None:
    evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, **PSNR)
    painter.pipe.calls.clear()
    result = evaluate("painter", PROMPTS, [BLUE], SETTINGS, out=tmp_path, **PSNR)
    assert {paint for paint, _ in painter.pipe.calls} == {BLUE.paint}
    assert result.scores is not None
    assert list(result.scores["methods"]) == ["uncached", "red-00000000", "blue-00000000"]


def test_a_reader_is_told_what_was_timed_apart(
    painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, stages=["generate"])
    for path in (tmp_path / "calls").rglob("*.json"):
        path.write_text(path.read_text().replace('"run": "2', '"run": "1'))
    begun = json.loads((tmp_path / FILE).read_text())
    monkeypatch.setattr("dcache.eval.manifest.machine", lambda: begun["machine"] | {"threads": 77})
    monkeypatch.setattr("dcache.eval.manifest.versions", lambda: begun["versions"] | {"dcache": "9.9"})
    evaluate("painter", PROMPTS, [BLUE], SETTINGS, out=tmp_path, **PSNR)
    notes = json.loads((tmp_path / "report.json").read_text())["notes"]
    assert [note["about"] for note in notes if "another run than the uncached" in note["text"]] == ["blue"]
    assert [note["about"] for note in notes if "continued with threads 77, dcache 9.9" in note["text"]] == [
        ""
    ]


def test_a_method_that_was_interrupted_is_left_out_and_named(painter: Painter, tmp_path: Path) -> None:
    def stop() -> None:
        if painter.pipe.paint == BLUE.paint:
            raise KeyboardInterrupt

    painter.pipe.before = stop
    with pytest.raises(KeyboardInterrupt):
        evaluate("painter", PROMPTS, [BLUE], SETTINGS, out=tmp_path, **PSNR)
    result = evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, **PSNR)
    assert result.scores is not None
    assert list(result.scores["methods"]) == ["uncached", "red-00000000"]
    assert result.unfinished == ["blue"]


def test_other_settings_are_refused_before_anything_is_loaded(
    painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, stages=["generate"])
    before = (tmp_path / FILE).read_bytes()
    no_loading(monkeypatch)
    with pytest.raises(
        DcacheError, match=r"seed: expected 7, got 8\nUse the same settings, or choose another"
    ):
        evaluate("painter", PROMPTS, [RED], replace(SETTINGS, seed=8), out=tmp_path)
    with pytest.raises(DcacheError, match="pipeline: expected painter, got sculptor"):
        evaluate("sculptor", PROMPTS, [RED], SETTINGS, out=tmp_path)
    with pytest.raises(DcacheError, match=r"prompts: expected 3 \(.*, got 1 \("):
        evaluate("painter", ["a red fox"], [RED], SETTINGS, out=tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_another_pipeline_of_the_same_name_is_refused(
    painter: Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, stages=["generate"])
    monkeypatch.setattr(Painter, "digest", "other")
    with pytest.raises(DcacheError, match=r"holds pictures of another Pipe: .* got other"):
        evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, stages=["generate"])


def test_later_stages_refuse_only_what_is_given_and_differs(painter: Painter, tmp_path: Path) -> None:
    evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, stages=["generate"])
    evaluate(out=tmp_path, stages=["score"], **PSNR)
    evaluate("painter", PROMPTS, settings=Settings(seed=7), out=tmp_path, stages=["score"], **PSNR)
    for wrong in (("other",), ("painter", PROMPTS[:1]), ("painter", None, "default", Settings(steps=9))):
        with pytest.raises(DcacheError, match="holds an evaluation with other settings"):
            evaluate(*wrong, out=tmp_path, stages=["score"], **PSNR)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"stages": ["generat"]}, "stages must be some of generate, score, report, got generat"),
        ({"stages": []}, "stages must be some of .* got none"),
        ({"metrics": ["psnrr"]}, "no metric psnrr: expected some of psnr"),
        ({"methods": "newtn"}, "Did you mean 'newton'"),
        ({"pipeline": "somebody/else", "prompts": None}, "somebody/else has no default prompts"),
        ({"prompts": "nowhere.txt"}, "cannot read the prompts nowhere.txt"),
        ({"settings": Settings(dtype="int3")}, "dtype must be one of"),
        ({"stages": ["score"]}, "holds no evaluation"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_loaded_or_written(
    asked: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_loading(monkeypatch)
    with pytest.raises(DcacheError, match=expected):
        evaluate(**{"pipeline": "demo", "prompts": "demo:2", "out": tmp_path / "out", **asked})
    assert not (tmp_path / "out").exists()


def test_a_method_that_does_not_fit_is_named_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(DcacheError, match="deepcache: "):
        evaluate("demo", "demo:1", "default;deepcache", Settings(steps=2), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_another_run_holds_is_refused(painter: Painter, tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(DcacheError, match="another run is writing"):
        evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, **PSNR)


def test_a_folder_that_another_run_holds_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_loading(monkeypatch)
    with alone(tmp_path), pytest.raises(DcacheError, match="another run is writing"):
        evaluate("painter", PROMPTS, [RED], SETTINGS, out=tmp_path, **PSNR)


def test_a_pipeline_in_hand_is_evaluated_and_left_as_it_was(tmp_path: Path) -> None:
    pipe = load("demo", device="cpu").pipe
    before = set(vars(pipe.transformer))
    options = {"height": 64, "width": 64, "max_sequence_length": 16, "use_resolution_binning": False}
    settings = Settings(steps=3, options={**options, "clean_caption": False})
    result = evaluate(pipe, ["a red circle", "a star"], "interval", settings, out=tmp_path, metrics=["psnr"])
    assert result.store.settings["pipeline"] == "PixArtAlphaPipeline"
    assert (result.store.settings["dtype"], result.store.settings["device"]) == ("float32", "cpu")
    assert result.store.manifest.pipeline["steps"] == 3
    assert set(vars(pipe.transformer)) == before
    (interval,) = (entry for entry in result.store.methods if entry.label == "interval")
    assert result.store.schedule(interval) is not None
    with pytest.raises(DcacheError, match="keeps its dtype and device"):
        evaluate(pipe, ["a"], settings=replace(settings, device="cpu"), out=tmp_path / "other")


def test_a_pipeline_in_hand_stays_where_it_is_also_in_one_of_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "own_device", lambda _: "cuda:1")
    pipe = load("demo", device="cpu").pipe
    job = evaluation.job_of(pipe, ["a star"], "interval", Settings(), tmp_path)
    assert job.subject.pipe is pipe
    assert job.settings["device"] == "cpu"


def test_metrics_that_need_no_download_are_usual() -> None:
    assert usual_metrics("demo", "image") == ["psnr", "ssim", "clip-shapes", "frechet-shapes"]
    assert usual_metrics("demo", "image", other_size=True) == ["psnr", "ssim"]
    assert usual_metrics("demo-video", "video") == ["psnr", "ssim", "flicker"]
    assert usual_metrics("somebody/else", "image") == ["psnr", "ssim"]


def test_it_is_reached_from_the_package() -> None:
    assert dcache.eval.evaluate is evaluate
    assert dcache.eval.Settings is Settings
