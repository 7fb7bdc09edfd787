"""The registry of metrics: those of the demo are named by module and imported when one is asked for."""

import json
import subprocess
import sys

from dcache.eval.metrics import METRICS

LOADED = """
import json, sys
import dcache.eval.metrics as metrics
before = sorted(name for name in sys.modules if name.startswith("dcache.demo"))
names = list(metrics.METRICS)
print(json.dumps([before, names]))
"""


def fresh(script: str) -> list[list[str]]:
    run = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_the_metrics_of_the_demo_are_imported_when_asked_for() -> None:
    before, names = fresh(LOADED)
    assert before == []
    assert names == list(METRICS)


def test_the_metrics_of_the_demo_come_last() -> None:
    assert list(METRICS)[-2:] == ["clip-shapes", "frechet-shapes"]
    assert METRICS["clip-shapes"].title == "clip-shapes"
    assert "no-such-metric" not in METRICS


def test_the_demo_may_be_imported_first() -> None:
    script = (
        "import dcache.demo.metrics, dcache.eval.metrics as m, json; print(json.dumps([list(m.METRICS)]))"
    )
    assert fresh(script) == [list(METRICS)]
