"""The same conditions for every command: one thread; a model whose loading is a failure where none is due."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcache.cli import main


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the shipped model is loaded: what is asked for is wrong, and is told before."""

    def untouched(*_: Any, **__: Any) -> Any:
        pytest.fail("the model was loaded although the arguments are wrong")

    monkeypatch.setattr("dcache.demo.pipeline.load_pipeline", untouched)


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], str]:
    """What a wrong command line is told, in the last line that it prints."""

    def told(line: str) -> str:
        monkeypatch.chdir(tmp_path)
        assert main(shlex.split(line)) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("dcache: ")
        return error

    return told
