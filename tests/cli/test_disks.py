"""Disks: a folder without write access ends a command before its work; a full disk costs no figure."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dcache.cli import main
from dcache.schedule import Schedule
from dcache.search.calibrate import Calibrated
from dcache.search.rendering.results import Results
from tests.eval.fake_pipeline import Painter
from tests.profile.full_profile import profile

COMMANDS = {
    "demo": ["demo", "--out", "out"],
    "demo video": ["demo", "--video", "--out", "out"],
    "bench": ["bench", "--out", "out"],
    "kernels": ["bench", "--kernels", "--out", "out"],
    "eval": ["eval", "--out", "out"],
    "calibrate": ["calibrate", "--prompts", "demo:3", "--out", "out.schedule.json"],
    "search": ["search", "--profile", "x.safetensors", "--out", "out"],
    "profile": ["calibrate", "--out", "out.profile.safetensors"],
    "import": ["import", "ratios.json", "--out", "out.json"],
    "export": ["export", "good.json", "--to", "schedule", "--steps", "12", "--out", "out.json"],
    "png": ["show", "good.json", "--png", "out.png"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Schedule.of_steps([0, 1, 4], 6).save("good.json")
    profile().save("x.safetensors")
    (tmp_path / "ratios.json").write_text("[1.0, 0.9, 1.1, 1.05]")
    return tmp_path


def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dcache.eval.kernel_bench.kernel_bench", lambda *_, **__: pytest.fail("kernels were timed")
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder_ends_a_command_before_its_work(
    command: str,
    here: Path,
    unloaded: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    no_work(monkeypatch)
    before = sorted(here.iterdir())
    monkeypatch.setattr("tempfile.mkstemp", refuse)
    assert main(COMMANDS[command]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "Read-only file system" in error
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_of_a_mebibyte_ends_a_command_before_its_work(
    command: str,
    here: Path,
    unloaded: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    no_work(monkeypatch)
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    before = sorted(here.iterdir())
    assert main(COMMANDS[command]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "got 1.0 MiB" in error
    assert sorted(here.iterdir()) == before


@contextmanager
def full_after(bytes_left: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every file that is written whole is counted; the one that no longer fits is not written."""
    left = [bytes_left]
    replace = Path.replace

    def fits(self: Path, target: Any) -> Path:
        left[0] -= self.stat().st_size
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fits)
        yield


SHORT = ["--steps", "2", "--prompts", "demo:1", "--methods", "interval", "--repeats", "1"]


def test_a_disk_that_fills_up_costs_bench_the_plot_and_no_figure(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_after(8000, monkeypatch):
        assert main(["bench", *SHORT, "--no-flops", "--out", "out"]) == 2
    printed = capsys.readouterr()
    # Printed before they are saved.
    assert any(line.startswith("interval") for line in printed.out.splitlines())
    assert "No space left on device" in printed.err.splitlines()[-1]
    results = json.loads((here / "out" / "results.json").read_text())
    assert results["methods"][0]["label"] == "interval"
    # Every file is whole, and nothing is left of those that did not fit.
    assert sorted(p.name for p in (here / "out").rglob("*") if p.is_file()) == [
        "interval.json",
        "results.json",
    ]
    Schedule.load(here / "out" / "schedules" / "interval.json")


def test_a_disk_that_fills_up_costs_calibrate_neither_figures_nor_results(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = Schedule.of_steps([0, 2], 4)

    def calibrate(*_: Any, results: Results, **__: Any) -> Calibrated:
        results.number("dear", lambda: 1.0)
        return Calibrated(schedule, 30.0, 40.0, 2.0, 1.9, 7)

    monkeypatch.setattr("dcache.eval.subject.load", lambda *_, **__: Painter())
    monkeypatch.setattr("dcache.search.calibrate.calibrate", calibrate)
    command = ["calibrate", "demo", "--prompts", "demo:3", "--out", "out.schedule.json"]
    with monkeypatch.context() as patch:
        replace = Path.replace

        def full(self: Path, target: Any) -> Path:
            if target.name == "out.schedule.json":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return replace(self, target)

        patch.setattr(Path, "replace", full)
        assert main(command) == 2
    printed = capsys.readouterr()
    assert "2.00x expected, 1.90x measured" in printed.out
    assert "No space left on device" in printed.err.splitlines()[-1]
    assert "dear" in (here / "out.schedule.json.resume" / "journal.jsonl").read_text()
    assert main(command) == 0
    assert "going on with 1 results of an earlier run" in capsys.readouterr().err
    assert Schedule.load("out.schedule.json").digest() == schedule.digest()
    assert not (here / "out.schedule.json.resume").exists()
