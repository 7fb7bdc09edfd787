"""With the base dependencies alone, every command names the extra that it lacks, before the work."""

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dcache.cli import main
from dcache.eval.packages import PACKAGES
from dcache.schedule import Schedule

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=;\[ ]", requirement)[0] for requirement in requirements}


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, unloaded: None) -> None:
    """Nothing of any extra can be found."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name in PACKAGES else find(name, *more)
    )


@pytest.mark.parametrize(
    ("line", "extra", "packages"),
    [
        (["demo"], "demo", ["transformers", "matplotlib", "pillow", "torchmetrics"]),
        (["demo", "--video"], "demo", ["transformers", "matplotlib", "pillow", "torchmetrics", "accelerate"]),
        (["bench"], "bench", ["matplotlib", "torchmetrics"]),
        (["calibrate", "--prompts", "demo:3"], "demo", ["transformers"]),
        (["calibrate", "demo-video", "--prompts", "demo:3"], "demo", ["transformers", "accelerate"]),
        (["calibrate", "--prompts", "demo:3", "--method", "pairs"], "bench", ["torchmetrics"]),
        (["eval"], "eval", ["filelock", "jinja2", "matplotlib", "pillow"]),
        (["search", "--profile", "x.safetensors"], "search", ["filelock", "jinja2", "matplotlib"]),
        (["show", "good.json", "--png", "x.png"], "bench", ["matplotlib"]),
        (["studio"], "studio", ["pillow", "starlette", "torchmetrics", "uvicorn"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else value,
)
def test_a_command_names_the_extra(
    line: list[str],
    extra: str,
    packages: list[str],
    base: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Schedule.of_steps([0, 1, 4], 6).save("good.json")
    assert main(line) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.endswith(f"needs {', '.join(packages)}: pip install 'dcache-torch[{extra}]'")
    assert set(packages) <= names(PROJECT["optional-dependencies"][extra])


@pytest.mark.parametrize(
    "line",
    [
        "demo",
        "demo --video",
        "bench",
        "bench demo-video",
        "studio --port 0",
        "eval demo --prompts demo:2 --device cpu",
        "calibrate --prompts demo:4",
        "lm eval recall",
        "dlm demo",
        "policy demo",
        "policy calibrate pusht",
    ],
)
def test_a_command_names_the_package_of_the_shipped_models(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "dcache_demo", None)
    assert main(line.split()) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.endswith(
        "the shipped models are in a package of their own, which is not installed: pip install dcache-demo"
    )


@pytest.mark.parametrize("line", [["methods"], ["methods", "newton"], ["env"], ["show", "good.json"]])
def test_other_commands_need_no_extra(
    line: list[str], base: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Schedule.of_steps([0, 1, 4], 6).save("good.json")
    assert main(line) == 0
    assert capsys.readouterr().err == ""


def test_one_constant_has_the_name_of_the_distribution() -> None:
    root = Path(__file__).parents[2]
    sources = [*(root / "dcache").rglob("*.py")]
    named = [path.name for path in sources if "dcache-torch" in path.read_text(encoding="utf-8")]
    assert named == ["distribution.py"]
    assert f'"{PROJECT["name"]}"' in (root / "dcache/util/distribution.py").read_text(encoding="utf-8")
