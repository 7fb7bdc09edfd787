"""The studio's page and addresses, by Starlette; served by uvicorn."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from dcache.errors import DcacheError
from dcache.eval.limits import Whole, check_within
from dcache.eval.studio.form import Form
from dcache.eval.studio.guard import Guard
from dcache.eval.studio.studio import BusyError, Studio

HERE = Path(__file__).parent
# Address -> file and type.
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/form.js": ("form.js", "text/javascript"),
    "/pictures.js": ("pictures.js", "text/javascript"),
    "/map.js": ("map.js", "text/javascript"),
    "/plot.js": ("plot.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PORTS = Whole(0, 65535)
LARGEST_BODY = 64 << 10
# Of a run's number.
MOST_DIGITS = 9
# Open connections have so many seconds to end once the server is asked to.
SECONDS_TO_END = 2


def application(studio: Studio, host: str, ready: Callable[[], None] = lambda: None) -> Starlette:
    """The ASGI application.

    Args:
        studio: what it shows.
        host: the host that the server listens on.
        ready: called when requests are about to be answered.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        ready()
        yield

    answers = _Answers(studio)
    routes = [Route(address, _file(*what)) for address, what in FILES.items()]
    routes += [
        Route("/setup", answers.setup),
        Route("/events", answers.events),
        Route("/runs", answers.start, methods=["POST"]),
        Route("/stop", answers.stop, methods=["POST"]),
        Route("/runs/{number}", answers.comparison),
        Route("/runs/{number}/schedule.json", answers.schedule),
        Route("/runs/{number}/{side:str}.png", answers.picture),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard, host=host)], lifespan=lifespan)


class Server(uvicorn.Server):
    """uvicorn's server, which also ends the streams of open pages when it is asked to end.

    Args:
        studio: what it shows.
        host: the host that it listens on.
        ready: called when requests are about to be answered.
    """

    def __init__(self, studio: Studio, host: str, ready: Callable[[], None] = lambda: None) -> None:
        self.studio = studio
        super().__init__(
            uvicorn.Config(
                application(studio, host, ready), lifespan="on", ws="none", log_level="warning",
                access_log=False, server_header=False, timeout_graceful_shutdown=SECONDS_TO_END,
            )
        )  # fmt: skip

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the streams, and the server."""
        self.studio.stop()
        self.studio.events.close()
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one.

    Raises:
        DcacheError: the address cannot be used.
    """
    check_within(PORTS, port, "the port")
    if not host:
        # The socket would listen on all addresses.
        raise DcacheError("the host is empty: expected an address, such as 127.0.0.1, or 0.0.0.0 for all")
    try:
        host.encode("idna")
    except UnicodeError as error:
        raise DcacheError(f"{host!r} is no name of a host: expected an address, such as 127.0.0.1") from error
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise DcacheError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}. Give "
            "another --port, or --port 0 for any free one"
        ) from error


def address_of(listener: socket.socket, host: str) -> str:
    """The address of the page, for a browser on this machine."""
    port = listener.getsockname()[1]
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


class _Answers:
    """Answers requests."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    async def setup(self, _: Request) -> Response:
        return JSONResponse(self.studio.setup)

    async def events(self, _: Request) -> Response:
        stream = self.studio.events.stream("state", self.studio.state)
        return StreamingResponse(stream, media_type="text/event-stream")

    async def start(self, request: Request) -> Response:
        try:
            form = Form.of(await _content(request))
            return JSONResponse({"number": await run_in_threadpool(self.studio.start, form)}, 202)
        except BusyError as error:
            return _error(error, 409)
        except DcacheError as error:
            return _error(error, 400)

    async def stop(self, _: Request) -> Response:
        return JSONResponse({"stopping": self.studio.stop()})

    async def comparison(self, request: Request) -> Response:
        comparison = self.studio.comparisons.get(_number(request))
        if comparison is None:
            return _gone()
        return JSONResponse({"number": _number(request), **comparison.content()})

    async def schedule(self, request: Request) -> Response:
        comparison = self.studio.comparisons.get(_number(request))
        if comparison is None:
            return _gone()
        try:
            content = await run_in_threadpool(comparison.schedule_file)
        except DcacheError as error:
            return _error(error, 404)
        named = {"Content-Disposition": f'attachment; filename="{comparison.file_name()}"'}
        return Response(content, media_type="application/json", headers=named)

    async def picture(self, request: Request) -> Response:
        side, _, strip = request.path_params["side"].partition("-")
        picture = self.studio.picture(_number(request), side)
        if picture is None or side not in ("uncached", "cached") or strip not in ("", "strip"):
            return _gone()
        return Response(picture.strip if strip else picture.file, media_type="image/png")


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    """Answers with one of the page's own files."""
    content = (HERE / name).read_bytes()
    return lambda _: Response(content, media_type=kind)


async def _content(request: Request) -> object:
    """The JSON of a request's body.

    Raises:
        DcacheError: it is too long, or no JSON.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            raise DcacheError(f"the request is too long: expected at most {LARGEST_BODY} bytes")
    try:
        content: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DcacheError("the request is no JSON") from error
    return content


def _number(request: Request) -> int:
    """The number of a run in an address; 0, which no run has, for what is none."""
    text: str = request.path_params["number"]
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else 0


def _error(error: DcacheError, status: int) -> Response:
    return JSONResponse({"error": str(error)}, status)


def _gone() -> Response:
    return JSONResponse({"error": "there is no such run, or it is no longer kept"}, 404)
