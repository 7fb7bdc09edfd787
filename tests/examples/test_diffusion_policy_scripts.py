"""The scripts of examples/diffusion_policy from demonstrations to a measured policy, at a tiny size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dcache.cli import main

FOLDER = Path(__file__).parents[2] / "examples" / "diffusion_policy"
SIMULATORS = {"pusht": "gym_pusht", "drawer-open": "metaworld"}


def script(name: str, *arguments: object) -> str:
    """What a script prints."""
    line = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, arguments)]
    environment = {**os.environ, "SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1"}
    # Scripts import their neighbours.
    environment.pop("PYTHONSAFEPATH", None)
    done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("task", SIMULATORS)
def test_demonstrations_training_and_measurement_run_and_go_on(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(SIMULATORS[task])
    demonstrations = tmp_path / "demonstrations"
    line = ("demonstrate", task, "--episodes", 2, "--first", 1000, "--out", demonstrations)
    assert "of 2 solved" in script(*line)
    # What is there is not made again.
    assert script(*line) == ""
    script("demonstrate", task, "--episodes", 1, "--observations", "--out", tmp_path)
    training = ("train", task, "--demonstrations", demonstrations, "--out", tmp_path, "--seconds")
    script(*training, 1)
    first = load_file(tmp_path / "model.safetensors")
    script(*training, 2)
    weights = load_file(tmp_path / "model.safetensors")
    assert any(not weights[name].equal(first[name]) for name in weights)
    given = ["--weights", str(tmp_path), "--observations", str(tmp_path / "observations.safetensors")]
    settings = ["--settings", "ddim:4; ddim:4 interval:interval=2", "--timed", "0", "--json"]
    assert main(["policy", "demo", "--task", task, *given, *settings]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["computed"] for row in rows] == [1.0, 0.5]
