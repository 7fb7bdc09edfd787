"""`dcache policy calibrate`: a schedule for a policy of a file, under observations of a file."""

from pathlib import Path

import numpy as np
import pytest
import torch

import dcache
from dcache.cli import main
from dcache.policy.sources import policy_named
from dcache.profile import Profile

POLICY = """
import torch
from diffusers import DDIMScheduler
from torch import nn

from dcache.policy import Sampled
from pathlib import Path

HERE = Path(__file__).parent


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.see, self.blocks = nn.Linear(7, 64), nn.Sequential(*(nn.Linear(64, 64) for _ in range({depth})))
        self.leave = nn.Linear(64, 2)

    def forward(self, sample, timestep, observation):
        seen = torch.cat([sample, observation[:, None].expand(-1, sample.shape[1], -1)], -1)
        return self.leave(self.blocks(self.see(seen)))


def make():
    torch.manual_seed(0)
    with (HERE / "made").open("a") as file:
        file.write("x")
    sampler = DDIMScheduler(100, clip_sample=False)
    return Sampled(Denoiser().eval(), sampler, (8, 2), 10, lambda seen: chunk_begins(seen["state"]))


def chunk_begins(state):
    with (HERE / "chunks").open("a") as file:
        file.write("x")
    if (HERE / "stop").exists() and len((HERE / "chunks").read_text()) > 2:
        raise KeyboardInterrupt
    return state
"""


def written(folder: Path, depth: int = 1) -> tuple[str, str]:
    """A policy's file with its name, and a file of four observations."""
    (folder / "robot.py").write_text(POLICY.replace("{depth}", str(depth)), encoding="utf-8")
    states = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    np.savez(folder / "seen.npz", state=states)
    return f"{folder / 'robot.py'}:make", str(folder / "seen.npz")


def test_a_profile_is_made_of_the_chunks_and_a_stopped_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, seen = written(tmp_path)
    out = tmp_path / "robot.safetensors"
    line = ["policy", "calibrate", policy, "--observations", seen, "--out", str(out), "--sites", "model"]
    line += ["--repeats", "1"]
    (tmp_path / "stop").touch()
    assert main(line) == 130
    before = len((tmp_path / "chunks").read_text())
    assert not out.exists()
    (tmp_path / "stop").unlink()
    assert main(line) == 0
    profile = Profile.load(out)
    assert (set(profile.sites), profile.steps, profile.prompts) == ({"model"}, 10, 4)
    assert profile.latencies is not None
    again = tmp_path / "again"
    again.mkdir()
    policy, seen = written(again)
    line = [policy if ".py:" in word else word for word in line]
    assert main([*(str(again / "robot.safetensors") if word == str(out) else word for word in line)]) == 0
    # What the stopped run had made is not made again.
    resumed = len((tmp_path / "chunks").read_text()) - before
    assert resumed < len((again / "chunks").read_text())
    assert not list(tmp_path.glob("*.resume"))
    assert f"wrote {out}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_schedule_is_planned_checked_and_enabled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, seen = written(tmp_path, depth=100)
    out = tmp_path / "robot.schedule.json"
    line = ["policy", "calibrate", policy, "--observations", seen, "--out", str(out)]
    assert main([*line, "--method", "pairs", "--speedup", "1.3", "--sites", "model", "--repeats", "1"]) == 0
    printed = capsys.readouterr().out
    assert "under 1 other observations" in printed
    assert f"dcache.enable(policy, {str(out)!r})" in printed
    robot = policy_named(policy)
    dcache.enable(robot.denoiser, str(out))
    robot({"state": torch.ones(1, 5)})
    assert dcache.stats(robot.denoiser).predicted > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["{robot}"], "--observations FILE is needed"),
        (["{robot}", "--observations", "{seen}", "--out", "x.npz"], "must end with .json"),
        (["{robot}", "--observations", "{seen}", "--runs", "1"], "expected 2 or more observations"),
        (["{robot}", "--observations", "{seen}", "--speedup", "1"], "--speedup must be above 1"),
        (["{robot}", "--observations", "{seen}", "--out", "nowhere/x.json"], "there is no folder"),
        (["{robot}", "--observations", "{robot}"], "observations are a file .npz or .safetensors"),
    ],
    ids=["no observations", "ending", "runs", "speedup", "folder", "no arrays"],
)
def test_wrong_lines_are_said_before_the_policy_is_made(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    robot, seen = written(tmp_path)
    assert main(["policy", "calibrate", *(w.format(robot=robot, seen=seen) for w in options)]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_without_its_file_a_method_names_the_command() -> None:
    for wrong in ("nowhere.schedule.json", "bac", "bac:profile=nowhere.safetensors", "fitted"):
        with pytest.raises(dcache.DcacheError, match="dcache policy calibrate POLICY --observations"):
            dcache.enable(torch.nn.Linear(2, 2), wrong)
