"""`dcache search` on the shipped model: a front, the same for one process and two, and after a kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dcache
from dcache.cli import main
from dcache.cli.search_arguments import set_threads
from dcache.eval.prompts import read
from dcache.eval.subject import load
from dcache.profile import Latencies, Profile
from dcache.schedule import Schedule
from dcache.search.evaluating.quality import QualityEvaluator
from dcache.search.observe import observe
from tests.cli.heartbeats import without_heartbeats

SHORT = ["--steps", "4", "--prompts", "demo:3", "--first", "2", "--budget", "7", "--population", "4"]
SHORT += ["--recipes", "reuse,fitted"]


# Weights are fitted in the end, and the front is looked at on other prompts.
FITTED = ["--recipes", "line,apart", "--budget", "34", "--fitting", "0.6", "--held-out", "demo-train:2"]


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "demo.profile.safetensors"
    subject = load("demo", steps=4, device="cpu")
    observed = observe(subject, ["a red circle"], sites=["auto"], repeats=1, timing=False)
    # Given, so that no result depends on how busy the machine is; one compute of four is 2.2x.
    latencies = Latencies(1.0, {"trunk": 0.2}, {"trunk": 0.001}, {"trunk": 1e9}, {"trunk": 0.05})
    return replace(observed, latencies=latencies).save(path)


def search(profile: Path, out: Path, *more: str) -> int:
    common = ["--profile", str(profile), "--threads", "1", "--out", str(out)]
    return main(["search", "demo", *SHORT, *common, *more])


def launched(profile: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-P", "-m", "dcache.cli", "search", "demo", *SHORT, *more),
        *("--profile", str(profile), "--threads", "1", "--out", str(out)),
    ]


def interrupt(monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    """Ctrl-C before so manieth rendering, once."""
    own, asked = QualityEvaluator.evaluate, []

    def interrupted(self: QualityEvaluator, schedule: Schedule, rung: int) -> dict[str, Any]:
        asked.append(rung)
        if len(asked) == before:
            raise KeyboardInterrupt
        return own(self, schedule, rung)

    monkeypatch.setattr(QualityEvaluator, "evaluate", interrupted)


def front(out: Path) -> object:
    content = json.loads((out / "front.json").read_text())
    return content["front"], content["hypervolume"], content["evaluations"], content["twins"]


def test_a_front_is_found_written_and_picked_from(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(profile, tmp_path, "--pick", "1.2x") == 0
    printed, told = capsys.readouterr()
    content = json.loads((tmp_path / "front.json").read_text())
    assert 2 <= content["evaluations"] <= 7
    # The end of the front that computes everything pays for remembering it, and loses nothing.
    timed = Profile.load(profile).latencies
    assert timed is not None
    paid = timed.uncached + timed.overhead.get("trunk", 0.0)
    assert content["front"][0]["speedup"] == pytest.approx(timed.uncached / paid, abs=1e-3)
    assert content["front"][0]["psnr"] == 100.0
    assert all(f"{one['speedup']:.2f}x" in printed for one in content["front"])
    lines = without_heartbeats(told)
    assert lines[0] == "loading the model"
    assert re.fullmatch(
        r"\d of 7 evaluated, \d+ twins spared, front of \d: (psnr at|none reaches) .* \(\d+ s\)", lines[1]
    )
    subject = load("demo", steps=4, device="cpu")
    with dcache.enabled(subject.pipe, tmp_path / "picked.schedule.json"):
        subject(["a red circle"], [0])
        assert dcache.stats(subject.pipe).predicted > 0


def test_going_on_evaluates_nothing_twice_and_skips_what_is_damaged(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(profile, tmp_path) == 0
    before, journal = front(tmp_path), tmp_path / "search.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"{nonsense\n", *lines[4:]]))
    capsys.readouterr()
    assert search(profile, tmp_path) == 2
    assert "exists already: continue that search (--resume)" in capsys.readouterr().err
    assert search(profile, tmp_path, "--resume") == 0
    assert "1 damaged line(s) of the journal are skipped" in capsys.readouterr().err
    assert front(tmp_path) == before
    # What was damaged was evaluated again, and nothing else: as many lines as before, and the damaged one.
    assert len(journal.read_bytes().splitlines()) == len(lines) + 1
    assert search(profile, tmp_path, "--resume", "--seed", "1") == 2
    assert "is of another search: seed differ" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_are_fitted_and_the_front_is_held_against_other_prompts(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search(profile, tmp_path, *FITTED, "--pick", "1.2x") == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "front.json").read_text())
    fitted = [one for one in content["front"] if one["recipe"] == "closed loop"]
    assert fitted
    assert content["renderings_of_fits"] + content["evaluations"] <= 34
    assert "fits of weights took" in printed
    assert "held out" in printed
    # The judge says of a member what the journal and the table say.
    subject, one = load("demo", steps=4, device="cpu"), fitted[0]
    schedule = Schedule.load(tmp_path / one["schedule"])
    (plan,) = schedule.components.values()
    assert set(plan.parameters) == {"weights", "apart"}
    judge = QualityEvaluator(subject, [["a", "b"], ["c"]], held_out=read("demo-train:2"))
    assert one["psnr_held_out"] == pytest.approx(judge.evaluate(schedule, 2)["values"]["psnr"], abs=1e-3)
    assert search(profile, tmp_path / "other", *FITTED[:-1], "demo:5") == 2
    assert "3 of the held-out prompts are among the prompts of the search" in capsys.readouterr().err


def test_what_cannot_be_searched_is_told(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = replace(Profile.load(profile), model="Other").save(tmp_path / "other.safetensors")
    for more, message in [
        (["--pick", "fast"], "--pick expects a speedup such as 2.5x"),
        (["--pick", "0x"], "--pick expects a speedup such as 2.5x"),
        (["--pick", "nan"], "--pick expects a speedup such as 2.5x"),
        (["--pick", "90x"], "--pick 90x is out of reach: one computed evaluation alone is expected to be"),
        (["--workers", "0"], "--workers must be a whole number between 1"),
        (["--threads", "0"], "--threads must be a whole number between 1"),
        (["--budget", "0"], "--budget must be a whole number between 1"),
        (["--metrics", "beauty"], "no metric beauty: expected some of"),
        (["--units", "blocks"], "the profile has no blocks: its sites are trunk"),
        (["--profile", str(other)], "the profile is of a Other"),
        (["--profile", str(tmp_path / "none")], "cannot read the profile"),
        (["--guidance", "2"], "observed with guidance 3, and the calls have 2"),
        (["--steps", "6"], "observed with 4 sampling steps, and the calls have 6"),
    ]:
        assert search(profile, tmp_path / "out", *more) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupted_search_leaves_its_front_and_goes_on(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert search(profile, tmp_path / "whole") == 0
    interrupt(monkeypatch, 6)
    capsys.readouterr()
    assert search(profile, tmp_path / "stopped") == 130
    assert "this is the front so far; --resume continues the search" in capsys.readouterr().err
    content = json.loads((tmp_path / "stopped" / "front.json").read_text())
    assert 1 <= content["evaluations"] <= 5
    assert search(profile, tmp_path / "stopped", "--resume") == 0
    assert front(tmp_path / "stopped") == front(tmp_path / "whole")


@pytest.mark.slow
def test_an_interrupted_search_without_the_speedup_that_is_asked_for_leaves_its_front(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of what computes everything there are both rungs.
    interrupt(monkeypatch, 3)
    assert search(profile, tmp_path, "--pick", "1.2x") == 130
    told = capsys.readouterr().err
    assert "this is the front so far" in told
    assert "no schedule of the front is expected to be 1.2x" in told
    assert len(json.loads((tmp_path / "front.json").read_text())["front"]) == 1


def test_threads_are_shares_of_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        for own, asked, workers, expected in [
            (4, None, 2, 2),
            (1, None, 1, 1),
            (1, None, 3, 1),
            (4, 3, 2, 3),
        ]:
            torch.set_num_threads(own)
            assert set_threads(asked, workers) == torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_workers_find_what_one_process_finds(profile: Path, tmp_path: Path) -> None:
    assert search(profile, tmp_path / "one", *FITTED) == 0
    assert search(profile, tmp_path / "two", *FITTED, "--workers", "2") == 0
    assert front(tmp_path / "two") == front(tmp_path / "one")
    journals = [(tmp_path / name / "search.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(journals[0]) == len(journals[1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_launched_processes_find_what_one_finds(profile: Path, tmp_path: Path) -> None:
    assert search(profile, tmp_path / "one", *FITTED) == 0
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--main_process_port=0"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    command = launched(profile, tmp_path / "two", *FITTED, "--device", "cpu")
    done = subprocess.run(
        [*command[:2], *launch, *command[2:]],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("were twins of them") == 1
    assert front(tmp_path / "two") == front(tmp_path / "one")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_gone_on_with_equals_never_stopped(profile: Path, tmp_path: Path) -> None:
    assert search(profile, tmp_path / "whole") == 0
    stopped = tmp_path / "stopped"
    running = subprocess.Popen(
        launched(profile, stopped), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    journal = stopped / "search.jsonl"
    for _ in range(20_000):
        if journal.exists() and journal.read_bytes().count(b"\n") >= 4:
            break
        assert running.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    else:
        pytest.fail("four lines of the journal are not there after 200 s")
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (stopped / "front.json").exists()
    assert search(profile, stopped, "--resume") == 0
    assert front(stopped) == front(tmp_path / "whole")
    lines = [(tmp_path / name / "search.jsonl").read_bytes() for name in ("whole", "stopped")]
    known = [{json.loads(line).get("key", [""])[0] for line in text.splitlines()} for text in lines]
    assert known[0] == known[1]
