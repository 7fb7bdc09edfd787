"""`dcache demo` from its arguments to its exit status; its figures are tested in tests/demo."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from dcache.cli import main
from dcache.demo.pipeline import load_pipeline


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--steps", "1"], "--steps must lie between 2 and 1000, got 1"),
        (["--prompts", "-1"], "--prompts must lie between"),
        (["--repeats", "0"], "--repeats must lie between"),
        (["--guidance", "0.5"], "--guidance must be a number of at least 1"),
        (["--guidance", "nan"], "--guidance must be a number of at least 1"),
        (["--methods", "newtn"], "Did you mean 'newton'"),
        (["--methods", "newton:intervall=3"], "newton has no option 'intervall'"),
        (["--methods", "newton:interval"], "expected option=value"),
        (["--methods", "newton:interval=x"], "newton:interval=x"),
        (["--methods", "nowhere/a.json"], "cannot read the schedule"),
        (["--methods", "default;default"], "more than once"),
        (["--methods", " ; "], "--methods names none"),
    ],
)
def test_wrong_arguments_end_before_anything_is_loaded(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    unloaded: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_word_for_a_number_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--steps", "many"]) == 2
    assert "--steps: invalid int value: 'many'" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_cure(
    tmp_path: Path, unloaded: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("PIL", "torchmetrics") else found(name)
    )
    assert main(["demo", "--out", str(tmp_path)]) == 2
    expected = "the demo needs pillow, torchmetrics: pip install 'dcache-torch[demo]'"
    assert expected in capsys.readouterr().err


def test_out_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    assert main(["demo", "--out", str(path)]) == 2
    assert main(["demo", "--out", str(path / "below")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert path.read_text() == "kept"


def test_a_method_that_does_not_fit_the_model_is_named(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dcache.demo.pipeline.load_pipeline", lambda *_: pipe)
    assert main(["demo", "--out", str(tmp_path), "--methods", "default;deepcache"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("dcache: deepcache: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["measuring", "drawing"])
def test_an_interrupt_leaves_no_caching_and_no_half_written_file(
    where: str,
    pipe: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = set(vars(pipe.transformer))
    monkeypatch.setattr("dcache.demo.pipeline.load_pipeline", lambda *_: pipe)
    seen: list[bool] = []

    def interrupt(*_: Any, **__: Any) -> Any:
        seen.append(set(vars(pipe.transformer)) != before)
        raise KeyboardInterrupt

    if where == "measuring":
        calls = iter(range(100))
        hidden = pipe.vae.decode
        monkeypatch.setattr(
            pipe.vae, "decode", lambda *a, **k: hidden(*a, **k) if next(calls) < 1 else interrupt()
        )
    else:
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", interrupt)
    short = ["--steps", "2", "--prompts", "1", "--repeats", "1", "--methods", "interval"]
    assert main(["demo", "--out", str(tmp_path), *short]) == 130
    # The first interrupt comes while caching is on: the undoing is what is tested.
    assert seen == [where == "measuring"]
    assert set(vars(pipe.transformer)) == before
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == (
        [] if where == "measuring" else ["results.json", "interval.json"]
    )
    assert capsys.readouterr().err.splitlines()[-1] == "dcache: interrupted"
