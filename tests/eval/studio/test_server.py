"""The addresses of the page, over a real connection: from the form to the files, and what is refused."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dcache.errors import DcacheError
from dcache.eval.studio import server
from dcache.eval.studio.server import FILES, LARGEST_BODY, address_of, listen
from dcache.eval.studio.studio import Studio
from dcache.schedule import Schedule
from tests.eval.studio.conftest import HOST, Client, form


def test_a_run_from_the_form_to_its_files(client: Client, studio: Studio, tmp_path: Path) -> None:
    events = client.events()
    assert next(events)[0] == "state"
    status, began = client.post("/runs", form(), Origin=client.address.rstrip("/"))
    assert status == 202
    number, seen = began["number"], list[tuple[str, Any]]()
    while not seen or seen[-1][0] not in ("done", "failed"):
        seen.append(next(events))
    assert [name for name, _ in seen if name != "progress"] == ["began", "uncached", "done"]
    content = seen[-1][1]
    assert content["number"] == number
    assert client.get(f"/runs/{number}") == (200, content)
    comparison = studio.comparisons.get(number)
    assert comparison is not None
    for side, picture in (("uncached", comparison.uncached), ("cached", comparison.picture)):
        for name, expected in ((side, picture.file), (f"{side}-strip", picture.strip)):
            answer, png = client.ask("GET", f"/runs/{number}/{name}.png")
            assert answer.getheader("Content-Type") == "image/png"
            assert png == expected
        assert np.asarray(Image.open(io.BytesIO(png))).shape == (64, 64, 3)
    answer, file = client.ask("GET", f"/runs/{number}/schedule.json")
    assert 'filename="interval-2.schedule.json"' in answer.getheader("Content-Disposition", "")
    (tmp_path / "x.json").write_bytes(file)
    assert comparison.trace is not None
    assert Schedule.load(tmp_path / "x.json").digest() == comparison.trace.digest()
    # A page that is opened later gets what there is.
    events.close()
    name, state = next(client.events())
    assert (name, state["run"]) == ("state", None)
    assert number in state["kept"]


def test_the_page_loads_only_its_own_files(client: Client) -> None:
    for path, (_, kind) in FILES.items():
        answer, content = client.ask("GET", path)
        assert answer.status == 200
        assert answer.getheader("Content-Type", "").startswith(kind)
        assert answer.getheader("Access-Control-Allow-Origin") is None
        assert "default-src 'none'" in answer.getheader("Content-Security-Policy", "")
        assert b"http" not in content.replace(b"http://www.w3.org/2000/svg", b"")
    assert client.get("/setup")[1]["pipelines"][0]["name"] == "demo"


@pytest.mark.parametrize(
    "path", ["/../form.py", "/form.py", "/runs/../../x", "/runs/1/../../etc.png", "/docs"]
)
def test_no_other_file_is_served(client: Client, path: str) -> None:
    assert client.ask("GET", path)[0].status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/runs/99999",
        "/runs/99999/cached.png",
        "/runs/99999/schedule.json",
        "/runs/1/other.png",
        "/runs/one",
        # Python reads no number of so many digits.
        f"/runs/{'9' * 5000}",
    ],
)
def test_what_is_not_kept_is_said(client: Client, path: str) -> None:
    status, content = client.get(path)
    assert status == 404
    assert "no longer kept" in content["error"]


def test_errors_are_those_of_dcache(client: Client) -> None:
    for changes, message in (
        ({"method": "newtn"}, "method 'newtn' is unknown"),
        ({"options": "intervall=3"}, "interval has no option 'intervall'"),
        ({"steps": 1}, "steps must be at least 2 for demo"),
    ):
        status, content = client.post("/runs", form(**changes))
        assert status == 400
        assert message in content["error"]
    headers: dict[str, Any] = {"Content_Type": "application/json"}
    for body, message in ((b"{", "no JSON"), (b" " * (LARGEST_BODY + 1), "too long"), (b"[]", "an object")):
        answer, content = client.ask("POST", "/runs", body, **headers)
        assert answer.status == 400
        assert message in json.loads(content)["error"]


def test_requests_of_other_pages_start_nothing(client: Client, studio: Studio) -> None:
    assert client.post("/runs", form(), Origin="http://evil.example")[0] == 403
    assert client.post("/runs", form(), Host="evil.example")[0] == 403
    assert client.post("/runs", form(), Content_Type="text/plain")[0] == 415
    assert client.post("/runs", form(), Sec_Fetch_Site="cross-site")[0] == 403
    assert client.get("/setup", Host="evil.example")[0] == 403
    assert client.ask("GET", "/runs")[0].status == 405
    assert studio.state()["run"] is None


def test_busy_stop_and_a_page_that_leaves(client: Client) -> None:
    events = client.events()
    next(events)
    number = client.post("/runs", form(steps=1000, prompt="a long call"))[1]["number"]
    assert next(events)[0] == "began"
    events.close()
    status, content = client.post("/runs", form())
    assert status == 409
    assert f"run {number} is under way" in content["error"]
    later = client.events()
    assert next(later)[1]["run"]["number"] == number
    assert client.post("/stop", {}) == (200, {"stopping": True})
    assert next(event for event in later if event[0] != "progress") == ("stopped", {"number": number})
    assert client.post("/stop", {}) == (200, {"stopping": False})


def test_a_port_that_is_taken_is_said() -> None:
    with listen(HOST, 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener, HOST) == f"http://127.0.0.1:{port}/"
        assert address_of(listener, "0.0.0.0") == f"http://127.0.0.1:{port}/"
        assert address_of(listener, "::1") == f"http://[::1]:{port}/"
        with pytest.raises(DcacheError, match=f"cannot listen on 127.0.0.1, port {port}: .*--port 0"):
            listen(HOST, port)
    with pytest.raises(DcacheError, match=r"cannot listen on no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)
    with pytest.raises(DcacheError, match="the port must be a whole number between 0 and 65535, got 70000"):
        listen(HOST, 70000)


@pytest.mark.parametrize(
    ("host", "message"), [("", "the host is empty"), ("a\u00e4..b", "is no name of a host")]
)
def test_what_is_no_host_is_said(host: str, message: str) -> None:
    with pytest.raises(DcacheError, match=message):
        listen(host, 0)


def test_every_file_of_the_page_is_served() -> None:
    there = {path.name for path in Path(server.__file__).parent.iterdir() if path.suffix not in (".py", "")}
    assert there == {name for name, _ in FILES.values()}
