"""`dcache policy`: the shipped policies on stored observations; the closed loop asks for its simulator."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from dcache.cli import main
from dcache.demo.policies.open_loop import load_observations
from dcache.demo.policies.policy import shipped_folder

SHORT = ["--task", "drawer-open", "--timed", "0", "--settings", "ddim:4; ddim:4 interval:interval=2"]


def test_a_demo_prints_a_row_for_each_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = load_observations("drawer-open").first(2)
    path = tmp_path / "few.safetensors"
    save_file({"states": few.states, "actions": few.actions}, path)
    arrays = tmp_path / "few.npz"
    np.savez(arrays, states=few.states.numpy(), actions=few.actions.numpy())
    tables = []
    for file in (path, arrays):
        assert main(["policy", "demo", *SHORT, "--observations", str(file), "--json"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    line = ["policy", "demo", *SHORT, "--observations", str(path)]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "ddim:4 interval:interval=2" in printed
    assert main([*line, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["setting"], row["computed"]) for row in rows] == [
        ("ddim:4", 1.0),
        ("ddim:4 interval:interval=2", 0.5),
    ]
    assert f"{rows[1]['error']:.4f}" in printed
    # No chunk was timed: no times are made up.
    assert [(row["milliseconds"], row["speedup"]) for row in rows] == [([], None)] * 2
    assert printed.count(" - ") == 2 * 4
    assert "1.00x" not in printed


def test_a_bench_names_the_extra_of_its_simulator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def absent(name: str, *more: Any) -> Any:
        return None if name in ("metaworld", "mujoco") else find(name, *more)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    line = ["policy", "bench", "--task", "drawer-open", "--episodes", "1", "--out", str(tmp_path)]
    assert main([*line, "--settings", "ddim:4"]) == 2
    error = capsys.readouterr().err
    assert "metaworld, mujoco==3.3.0" in error
    assert "policy" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task", "door"], "drawer-open, pusht"),
        (["--timed", "1000"], "--timed"),
        (["--settings", "ddim"], "begins with a sampler"),
        (["--settings", "ddim:4; ddim:4 warm=2"], "no previous chunk for warm=, got 'ddim:4 warm=2'"),
        (["--weights", "nowhere"], "nowhere has no policy of drawer-open (FileNotFoundError)"),
        (["--weights", str(shipped_folder("pusht"))], "has a policy of another task than drawer-open"),
        (["--observations", "nowhere.npz"], "cannot read the observations 'nowhere.npz' (FileNotFoundError)"),
        (["--observations", "seen.pt"], "observations are a file .npz or .safetensors"),
        (
            ["--observations", str(shipped_folder("pusht") / "observations.safetensors")],
            "observations of drawer-open need ",
        ),
    ],
    ids=[
        "task",
        "timed",
        "settings",
        "warm start",
        "weights",
        "task of weights",
        "none",
        "ending",
        "task of observations",
    ],
)
def test_wrong_lines(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "demo", "--task", "drawer-open", *options]) == 2
    assert message in capsys.readouterr().err
