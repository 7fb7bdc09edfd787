"""The examples run, and the engine benchmark's bar that is no timing holds."""

import os
import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_engine_benchmark_prints_its_figures() -> None:
    """One short run; timings are printed, not judged here; the count of Python calls is."""
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "bench_engine.py"), "--repeats", "1", "--prompts", "1"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr
    assert "inside dcache, all computed" in run.stdout
    assert "interval(4), trunk        computes 25 %" in run.stdout
    found = re.search(r"predicted denoiser call: (\d+) \(bar: 40 plus (\d+) blocks\)", run.stdout)
    assert found is not None
    assert 0 < int(found[1]) <= 40 + int(found[2])
