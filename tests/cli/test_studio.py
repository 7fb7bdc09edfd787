"""`dcache studio` from its arguments to Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from dcache.cli import main
from dcache.cli import studio as command
from dcache.eval.studio import server
from dcache.eval.studio.server import listen

ADDRESS = re.compile(r"dcache studio: http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)")


class Unserved:
    """Stands for the server: says that it is ready, and is interrupted."""

    seen: list[Any]

    def __init__(self, studio: Any, host: str, ready: Any) -> None:
        self.ready = ready
        Unserved.seen = [studio, host]

    def run(self, sockets: list[Any]) -> None:
        self.ready()
        assert sockets[0].getsockname()[1] > 0
        raise KeyboardInterrupt


@pytest.fixture
def unserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "Server", Unserved)


def test_it_prints_the_address_opens_it_and_ends_with_ctrl_c(
    unserved: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    line = ["studio", "demo", "--port", "0", "--open", "--steps", "4", "--methods", "newton:interval=2"]
    assert main(line) == 0
    printed, told = capsys.readouterr()
    assert ADDRESS.match(printed)
    assert printed.endswith("\nstopped\n")
    assert opened == [printed.split()[2]]
    assert told.startswith("loading the model\nloading demo")
    assert "warning" not in told
    studio, host = Unserved.seen
    assert host == command.HOST == "127.0.0.1"
    (pipeline,) = studio.setup["pipelines"]
    assert (pipeline["name"], pipeline["steps"]) == ("demo", 4)
    assert len(pipeline["prompts"]) == command.EXAMPLES
    assert studio.setup["entries"] == [{"name": "newton:interval=2", "label": "newton 2"}]


def test_a_host_that_others_reach_is_warned_of(
    unserved: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Closed:
        def close(self) -> None:
            """Nothing runs."""

    monkeypatch.setattr(command, "_studio", lambda *_: Closed())
    assert main(["studio", "--host", "0.0.0.0", "--port", "0"]) == 0
    printed, told = capsys.readouterr()
    assert ADDRESS.match(printed)
    assert told.startswith("warning: 0.0.0.0 is reached from other machines too")


def test_a_port_that_is_taken_is_said_before_a_model_is_loaded(
    unloaded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["studio", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)  # an interpreter of its own loads diffusers and transformers
def test_the_command_serves_a_run_and_a_signal_ends_it(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-P", "-m", "dcache", "studio", "demo", "--port", "0", "--steps", "1000"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    found = ADDRESS.match(run.stdout.readline())
    assert found
    connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
    body = json.dumps({"pipeline": "demo", "prompt": "a red circle"})
    connection.request("POST", "/runs", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)) == (202, {"number": 1})
    # A page that is open, and a call of a thousand steps that is under way.
    connection.request("GET", "/events")
    events = connection.getresponse()
    assert events.readline().startswith(b"id:")
    run.send_signal(signal.SIGINT)
    printed, told = run.communicate(timeout=120)
    assert run.returncode == 0, told
    assert printed == "stopped\n"
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []
    connection.close()
