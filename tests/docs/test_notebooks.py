"""The notebooks run, and hold what they print."""

from pathlib import Path
from types import ModuleType

import pytest

from tests import scripts

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def runner() -> ModuleType:
    return scripts.load("tools/run_notebooks.py")


def test_there_are_three() -> None:
    assert NAMES == ["lm_kv", "quickstart", "search"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_holds_its_outputs_and_a_picture(name: str) -> None:
    cells = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCACHE_HOME", str(tmp_path / "home"))
    cells = runner().run(NOTEBOOKS / f"{name}.ipynb", tmp_path).cells
    assert any(cell.get("outputs") for cell in cells)
