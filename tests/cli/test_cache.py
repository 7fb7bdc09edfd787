"""`dcache cache`: the folder of what was observed is listed and emptied."""

from pathlib import Path

import pytest

from dcache.cli import main
from dcache.observation.tuning import folder
from tests.observation.tuning.test_folder import KIND, learned


def test_the_folder_is_listed_and_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path))
    folder.save(KIND, learned(), pytest.fail)
    assert main(["cache", "list"]) == 0
    where, line = capsys.readouterr().out.splitlines()
    assert where == str(tmp_path / "tuned")
    assert line.endswith("Model, 5 evaluations, DDIM, guidance 3, size 4 x 8 x 8")
    assert main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == f"removed 1 file from {tmp_path / 'tuned'}\n"
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "nothing is kept"


def test_off_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DCACHE_HOME", "OFF")
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out == "off (DCACHE_HOME=off)\n"


def test_another_action_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "shrink"]) == 2
    assert "invalid choice: 'shrink'" in capsys.readouterr().err
