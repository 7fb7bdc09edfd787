"""A torchvision that does not load beside this torch is named, not the class that transformers lacks then."""

import sys
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from dcache.cli import main
from dcache.cli import methods as command
from dcache.errors import DcacheError
from dcache.eval.packages import torchvision_problem
from dcache.eval.subject import load

NMS = "operator torchvision::nms does not exist"


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Put a torchvision with this source in front of the installed one."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, f"raise RuntimeError({NMS!r})")


def test_a_torchvision_that_does_not_load_is_a_problem(broken: None) -> None:
    problem = torchvision_problem()
    assert problem is not None
    assert f"({NMS})" in problem
    assert problem.endswith("or remove it: pip uninstall torchvision")


def test_one_that_loads_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, "")
    assert torchvision_problem() is None


def test_none_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert torchvision_problem() is None


def fail(*_: object, **__: object) -> int:
    raise RuntimeError("Could not import module 'T5EncoderModel'")


def test_a_command_that_fails_for_it_says_so(
    broken: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "run", fail)
    assert main(["methods", "--verbose"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dcache: torchvision")
    assert error.endswith("caused by RuntimeError: Could not import module 'T5EncoderModel'\n")


def test_another_failure_of_a_command_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "")
    monkeypatch.setattr(command, "run", fail)
    with pytest.raises(RuntimeError, match="T5EncoderModel"):
        main(["methods"])


def test_a_pipeline_that_fails_for_it_says_so(
    broken: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", fail)
    with pytest.raises(DcacheError, match="does not load beside torch") as caught:
        load("someone/pipeline", device="cpu")
    assert isinstance(caught.value.__cause__, RuntimeError)
