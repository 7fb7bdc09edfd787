"""Several processes: all wait for all, one that fails stops all, and two make what one makes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcache.errors import DcacheError
from dcache.eval import processes
from dcache.eval.processes import ElsewhereError, ProcessGroup, join, own_device
from tests.eval.fake_pipeline import contents


class Table:
    """Threads that play processes: everybody lays down a message and sees those of all."""

    def __init__(self, count: int) -> None:
        self.barrier, self.messages = threading.Barrier(count, timeout=5), dict[int, Any]()
        self.own = threading.local()

    def gather(self, message: str | None) -> list[str | None]:
        self.messages[self.own.index] = message
        self.barrier.wait()
        found = [self.messages[index] for index in sorted(self.messages)]
        self.barrier.wait()
        return found


def play(work: Callable[[ProcessGroup], Any], monkeypatch: pytest.MonkeyPatch, count: int = 2) -> list[Any]:
    """What the work returns or raises in each process."""
    table, found = Table(count), [None] * count
    monkeypatch.setattr(processes, "_gathered", table.gather)

    def live(index: int) -> None:
        table.own.index = index
        try:
            found[index] = work(ProcessGroup(index, count))
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=live, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert not any(isinstance(one, threading.BrokenBarrierError) for one in found)
    return found


def fails_in(index: int, team: ProcessGroup) -> int:
    if team.rank == index:
        raise ValueError("no disk")
    return team.rank


def test_everybody_gets_its_own_result(monkeypatch: pytest.MonkeyPatch) -> None:
    assert play(lambda team: team.all(lambda: team.rank * 10), monkeypatch, 3) == [0, 10, 20]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(
    "work",
    [
        lambda index, team: team.all(lambda: fails_in(index, team)),
        lambda index, team: team.main_first(lambda: fails_in(index, team)),
        # In a step inside, before it, and after it.
        lambda index, team: team.all(lambda: team.all(lambda: fails_in(index, team))),
        lambda index, team: team.all(lambda: [fails_in(index, team), team.all(lambda: 1)]),
        lambda index, team: team.all(lambda: [team.all(lambda: 1), fails_in(index, team)]),
    ],
)
def test_one_that_fails_stops_all_and_nobody_waits(
    work: Callable[[int, ProcessGroup], Any], index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = play(lambda team: work(index, team), monkeypatch)
    assert isinstance(found[index], ValueError)
    assert isinstance(found[1 - index], ElsewhereError)
    assert str(found[1 - index]) == f"process {index} of 2 stopped: no disk"


def test_the_first_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    play(lambda team: team.main_first(lambda: order.append(team.rank)), monkeypatch, 3)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_one_process_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(processes, "_gathered", lambda message: pytest.fail("asked"))
    team = join()
    assert team == ProcessGroup(0, 1)
    assert team.main_first(lambda: team.all(lambda: 3)) == 3
    assert own_device("auto") == "auto"


def test_several_without_accelerate_are_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    expected = r"several processes needs accelerate: pip install 'dcache-torch\[bench\]'"
    with pytest.raises(DcacheError, match=expected):
        join()


def launched(folder: Path, count: int) -> subprocess.CompletedProcess[str]:
    # `--multi_gpu` is accelerate's word for several processes of one machine; without a GPU they use the CPU.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={count}"]
    launch += ["--main_process_port=0", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    command = [
        "-m",
        "dcache.cli",
        "eval",
        "demo",
        "--out",
        str(folder),
        "--prompts",
        "demo:5",
        "--steps",
        "3",
    ]
    command += ["--batch-size", "2", "--methods", "interval", "--metrics", "psnr,ssim,frechet-shapes"]
    return subprocess.run(
        [sys.executable, "-P", *(launch if count > 1 else []), *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"},
        timeout=400,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_give_the_pictures_and_scores_of_one(tmp_path: Path) -> None:
    runs = {count: launched(tmp_path / str(count), count=count) for count in (1, 2)}
    for run in runs.values():
        assert run.returncode == 0, run.stderr
    one, two = (json.loads((tmp_path / str(count) / "scores.json").read_text()) for count in (1, 2))
    assert contents(tmp_path / "2") == contents(tmp_path / "1")
    assert len(contents(tmp_path / "1")) == 10
    assert two == one
    assert "process 1 of 2: " in runs[2].stderr
    assert runs[2].stdout.count("best of its column") == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_process_that_fails_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("in the way")
    run = launched(tmp_path, count=2)
    assert run.returncode != 0
    assert "dcache: cannot create the folder" in run.stderr
