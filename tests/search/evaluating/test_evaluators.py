"""Workers end when the process that started them does, however it does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time
from pathlib import Path
from dcache.search.evaluating.evaluators import ProcessPoolEvaluator

class Judge:
    def evaluate(self, schedule, rung):
        Path(sys.argv[1], str(os.getpid())).touch()
        if rung:
            time.sleep(60)
        return {"rung": rung}

if __name__ == "__main__":
    pool = ProcessPoolEvaluator(Judge, 2, 1)
    try:
        for found in pool.evaluate([(None, 0), (None, 0), *[(None, int(sys.argv[2]))] * 4]):
            print(found, flush=True)
    finally:
        pool.close()
"""


def started(folder: Path, rung: int) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    (folder / "pids").mkdir()
    command = [sys.executable, "-P", str(script), str(folder / "pids"), str(rung)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(folder: Path) -> list[int]:
    found = []
    for name in (path.name for path in (folder / "pids").iterdir()):
        try:
            os.kill(int(name), 0)
        except ProcessLookupError:
            continue
        if "(zombie)" not in Path(f"/proc/{name}/status").read_text():
            found.append(int(name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_workers_of_a_killed_search_end(tmp_path: Path) -> None:
    with started(tmp_path, 1) as running:
        assert running.stdout is not None
        assert [running.stdout.readline() for _ in range(2)] == ["{'rung': 0}\n"] * 2
        assert alive(tmp_path)
        running.send_signal(signal.SIGKILL)
    # They may take a moment: 20 s at most.
    for _ in range(200):
        if not alive(tmp_path):
            break
        time.sleep(0.1)
    left = alive(tmp_path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_results_come_in_order_and_nobody_is_left(tmp_path: Path) -> None:
    running = started(tmp_path, 0)
    out, error = running.communicate(timeout=150)
    assert (out, error, running.returncode) == ("{'rung': 0}\n" * 6, "", 0)
    assert not alive(tmp_path)
