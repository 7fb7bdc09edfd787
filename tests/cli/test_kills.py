"""kill -9 at ten random moments: what was made stays, nothing is made twice, and the work ends well."""

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from dcache.cli import main
from dcache.profile import Profile
from dcache.schedule import Schedule

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KILLS = 10


def run(arguments: list[str], log: Path) -> None:
    """The child: the command, with its output in a file."""
    with log.open("ab") as opened:
        os.dup2(opened.fileno(), 1)
        os.dup2(opened.fileno(), 2)
    os._exit(main(arguments))


def killed(command: Callable[[], list[str]], state: Callable[[], dict[str, Any]], log: Path) -> int:
    """Run a command again and again, kill it soon after its state has grown; returns the number of kills.

    A state is what has been made, by name; what is in it once must never change or vanish.
    """
    rng, fork = random.Random(0), multiprocessing.get_context("fork")
    before, kills = state(), 0
    while kills < KILLS:
        child = fork.Process(target=run, args=(command(), log))
        child.start()
        while child.is_alive() and len(state()) <= len(before):
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.3))
        if not child.is_alive():
            return kills
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        kills += 1
        now = state()
        assert {name: now[name] for name in before} == before
        before = now
    return kills


def journal(path: Path) -> dict[str, Any]:
    """The results of a journal by key; a key that is there twice was made twice."""
    results: dict[str, Any] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            content = json.loads(line)
        except ValueError:
            # A kill has torn this line.
            continue
        if "key" in content:
            key = str(content["key"])
            assert key not in results
            results[key] = content["result"]
    return results


def test_calibrate(tmp_path: Path) -> None:
    out, log = tmp_path / "x.schedule.json", tmp_path / "log"
    folder = tmp_path / "x.schedule.json.resume"
    command = [
        "calibrate",
        "demo",
        "--steps",
        "8",
        "--prompts",
        "demo:6",
        "--speedup",
        "1.3",
        "--budget",
        "20",
    ]
    command += ["--repeats", "1", "--device", "cpu", "--out", str(out)]

    def state() -> dict[str, Any]:
        arrays = {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*.npz")}
        return journal(folder / "journal.jsonl") | arrays

    assert killed(lambda: command, state, log) > 3
    made = state()
    assert main(command) == 0
    assert made
    assert Schedule.load(out).measured["psnr"] > 0
    assert not folder.exists()


def tiny_dit(folder: Path) -> Path:
    """A pipeline of class labels with random weights, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        sample_size=8,
        norm_num_groups=4,
    )
    for p in transformer.parameters():
        # The gates of a fresh DiT are zero, so that its blocks would do nothing.
        torch.nn.init.normal_(p, std=0.1)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, sample_size=8)
    DiTPipeline(transformer, vae, DDIMScheduler()).save_pretrained(folder)
    return folder


def test_a_router_that_was_killed_gives_the_schedule_of_an_unbroken_run(tmp_path: Path) -> None:
    pipe, prompts = tiny_dit(tmp_path / "pipe"), tmp_path / "prompts.txt"
    prompts.write_text("1\n2\n3\n")
    line = "--method harmonica --steps 5 --iterations 12 --speedup 1.2 --repeats 1 --device cpu --guidance 2"
    begin = ["calibrate", str(pipe), "--prompts", str(prompts), *line.split()]
    out, unbroken, log = tmp_path / "x.schedule.json", tmp_path / "y.schedule.json", tmp_path / "log"
    folder = tmp_path / "x.schedule.json.resume"

    def state() -> dict[str, Any]:
        arrays = {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*.npz")}
        return journal(folder / "journal.jsonl") | arrays

    assert killed(lambda: [*begin, "--out", str(out)], state, log) > 3
    assert main([*begin, "--out", str(out)]) == 0
    assert not folder.exists()
    assert main([*begin, "--out", str(unbroken)]) == 0
    assert Schedule.load(out).components == Schedule.load(unbroken).components


def test_observe(tmp_path: Path) -> None:
    out, log = tmp_path / "x.profile.safetensors", tmp_path / "log"
    folder = tmp_path / "x.profile.safetensors.resume"
    command = [
        "calibrate",
        "demo",
        "--steps",
        "4",
        "--prompts",
        "demo:6",
        "--repeats",
        "1",
        "--device",
        "cpu",
    ]
    command += ["--out", str(out)]

    def state() -> dict[str, Any]:
        arrays = {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*.npz")}
        return journal(folder / "journal.jsonl") | arrays

    assert killed(lambda: command, state, log) > 3
    assert main(command) == 0
    assert Profile.load(out).prompts == 6


def test_search(tmp_path: Path) -> None:
    profile, out, log = tmp_path / "x.profile.safetensors", tmp_path / "out", tmp_path / "log"
    common = ["demo", "--steps", "4", "--device", "cpu"]
    observe = [*common, "--prompts", "demo:1", "--sites", "auto", "--repeats", "1", "--out", str(profile)]
    assert main(["calibrate", *observe]) == 0
    search = ["search", *common, "--profile", str(profile), "--prompts", "demo:3", "--first", "2"]
    search += [
        "--budget",
        "12",
        "--population",
        "4",
        "--recipes",
        "reuse",
        "--fitting",
        "0",
        "--threads",
        "1",
    ]
    search += ["--out", str(out)]
    file = out / "search.jsonl"

    def command() -> list[str]:
        return [*search, *(["--resume"] if file.exists() else [])]

    assert killed(command, lambda: journal(file), log) > 3
    assert main(command()) == 0
    assert json.loads((out / "front.json").read_text())["evaluations"] > 3
    journal(file)


def test_eval(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    command = ["eval", "demo", "--steps", "4", "--prompts", "demo:12", "--batch-size", "1", "--device", "cpu"]
    command += ["--methods", "interval:interval=2", "--metrics", "psnr", "--out", str(out)]

    def state() -> dict[str, Any]:
        """The pictures of calls whose record is written, by name, with their time."""
        files = {}
        for path in out.glob("calls/*/[!.]*.json"):
            for name in json.loads(path.read_text())["files"]:
                picture = out / "images" / path.parent.name / name
                files[f"{path.parent.name}/{name}"] = picture.stat().st_mtime_ns
        return files

    assert killed(lambda: command, state, log) > 3
    before = state()
    assert main(command) == 0
    now = state()
    assert {name: now[name] for name in before} == before
    assert len(now) == 24
    assert not list(out.rglob(".dcache-*"))
