"""The short examples run, each below forty lines."""

from pathlib import Path
from types import ModuleType

import pytest

from tests import scripts
from tests.cover import with_slow

FOLDER = Path(__file__).parents[2] / "examples" / "short"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
# They take ten seconds and more.
LONG = {"calibrate", "compiled", "evaluate", "several_gpus"}
# Arguments that make the long ones short.
ARGUMENTS = {
    "calibrate": (0.01, 3),
    "evaluate": ("out", "3"),
    "search": ("out", "4", "4"),
    "several_gpus": ("out",),
}


def script(name: str) -> ModuleType:
    return scripts.load(f"examples/short/{name}.py", f"short_{name}")


def test_there_is_an_example_of_each_kind() -> None:
    assert set(NAMES) == {
        "one_line", "lora", "controlnet", "offload", "compiled", "several_gpus", "video", "schedule_file",
        "calibrate", "search", "evaluate", "policy", "diffusion_lm", "lm_kv",
    }  # fmt: skip


@pytest.mark.filterwarnings("default::dcache.DcacheWarning")
@pytest.mark.parametrize("name", with_slow(*sorted(set(NAMES) - LONG), slow=sorted(LONG)))
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 40
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path / "home"))
    assert not script(name).main(*ARGUMENTS.get(name, ()))
    assert capsys.readouterr().out.strip()
