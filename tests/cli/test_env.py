"""`dcache env` and the other ways to start the command."""

import json
import subprocess
import sys

import pytest
import torch

import dcache
from dcache.cli import main


def test_a_bug_report_has_versions_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["dcache"] == dcache.__version__
    assert lines["torch"] == torch.__version__
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["python"] == sys.version.split()[0]
    assert facts["gpu"] == ("none" if not torch.cuda.is_available() else facts["gpu"])
    assert {"diffusers", "triton kernels", "system"} <= set(facts)


def test_python_m_dcache_is_the_command() -> None:
    command = [sys.executable, "-P", "-m", "dcache", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"dcache {dcache.__version__}"


def test_methods_and_schedules_print_as_json(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    assert main(["methods", "newton", "--json"]) == 0
    (name, described), *others = json.loads(capsys.readouterr().out).items()
    assert (name, others) == ("newton", [])
    assert described["options"]["interval"] == 3
    assert main(["methods", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(dcache.methods.available())
    schedule = dcache.Schedule.of_steps((0, 2), 4)
    assert main(["show", str(schedule.save(tmp_path / "x.json")), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == schedule.content()
