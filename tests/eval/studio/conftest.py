"""The shipped model in a studio, and its server on a free port of this machine."""

import json
import queue
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from dcache.eval.studio.events import Events
from dcache.eval.studio.server import Server, listen
from dcache.eval.studio.studio import Shown, Studio
from dcache.eval.subject import Subject, coefficients, load

HOST, LONGEST = "127.0.0.1", 100


class Log(Events):
    """Events that are also kept in order; `until` waits for one."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: queue.Queue[tuple[str, Any]] = queue.Queue()

    def publish(self, name: str, content: Any) -> None:
        super().publish(name, content)
        self.queue.put((name, json.loads(json.dumps(content))))

    def until(self, *names: str) -> list[tuple[str, Any]]:
        """All events up to the first one of these names."""
        seen = []
        while not seen or seen[-1][0] not in names:
            seen.append(self.queue.get(timeout=LONGEST))
        return seen


@pytest.fixture(scope="session")
def demo() -> Subject:
    """The shipped pipeline with four steps."""
    return load("demo", device="cpu", steps=4)


@pytest.fixture(scope="session")
def shown(demo: Subject) -> Shown:
    return Shown(demo, coefficients("demo"), ["a red circle", "a blue square"])


@pytest.fixture(scope="session")
def kept_studio(shown: Shown) -> Iterator[Studio]:
    """One for all tests of a process: which methods fit is looked up once."""
    studio = Studio({"demo": shown})
    yield studio
    studio.close()


@pytest.fixture
def studio(kept_studio: Studio) -> Iterator[Studio]:
    """Nothing is under way, before and after; its events are in a log."""
    kept_studio.events = Log()
    yield kept_studio
    if kept_studio.stop():
        kept_studio.events.until("stopped", "done", "failed")
    assert kept_studio.state()["run"] is None


class Client:
    """Talks to the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.address = f"http://{HOST}:{port}/"

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection(HOST, self.port, timeout=LONGEST)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        answer, content = self.ask("GET", path, **headers)
        return answer.status, json.loads(content)

    def post(self, path: str, content: Any, **headers: str) -> tuple[int, Any]:
        headers = {"Content_Type": "application/json"} | headers
        answer, said = self.ask("POST", path, json.dumps(content).encode(), **headers)
        return answer.status, json.loads(said)

    def events(self) -> Iterator[tuple[str, Any]]:
        """The stream of events, until the server or the reader ends it."""
        connection = HTTPConnection(HOST, self.port, timeout=LONGEST)
        connection.request("GET", "/events")
        answer = connection.getresponse()
        assert answer.getheader("Content-Type", "").startswith("text/event-stream")
        name = ""
        try:
            while line := answer.readline().decode():
                key, _, value = line.rstrip("\n").partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    yield name, json.loads(value)
        finally:
            answer.close()
            connection.close()


@pytest.fixture
def client(studio: Studio) -> Iterator[Client]:
    """A client of a server of its own."""
    with listen(HOST, 0) as listener:
        ready = threading.Event()
        server = Server(studio, HOST, ready.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert ready.wait(LONGEST)
        yield Client(listener.getsockname()[1])
        studio.events.close()
        server.should_exit = True
        thread.join(LONGEST)
        assert not thread.is_alive()


def form(**changes: Any) -> dict[str, Any]:
    """What the page asks for: interval 2 in four steps, without a warm-up."""
    asked = {"pipeline": "demo", "prompt": "a red circle", "seed": 3, "steps": 4, "guidance": 3.0}
    return asked | {"method": "interval", "options": "interval=2,warmup=1", "warm_up": False} | changes
