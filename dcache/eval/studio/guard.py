"""`Guard`: refuses requests that another web page in the user's browser could send.

A page of another site may send requests to a local server, and with a name of its own that resolves to
this machine it may even read the answers (DNS rebinding). So the `Host` must be an address or the server's
own name, the `Origin` the server's own, and whatever starts work must be JSON, which a foreign form cannot
send.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a server on this host is reached from this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("::1")
    (True, True, False, True)
    """
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def refusal(method: str, headers: Mapping[str, str], host: str) -> tuple[int, str] | None:
    """Status and message for a request that is refused; None for one that is answered.

    Args:
        method: GET or POST.
        headers: the request's headers, names in lower case.
        host: the host that the server listens on.
    """
    name, origin = headers.get("host", ""), headers.get("origin")
    if not _own(name, host):
        return 403, f"the host {name!r} is not this server's: open it by its address, as it was printed"
    if origin is not None and _netloc(origin) != name:
        return 403, f"requests from {origin} are refused: only this server's own page may send them"
    foreign = headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    if foreign and not (method == "GET" and headers.get("sec-fetch-mode") == "navigate"):
        return 403, "requests from other sites are refused"
    if method == "POST" and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "expected a body of the type application/json"
    return None


class Guard:
    """ASGI middleware that refuses such requests, and adds headers to all answers.

    Args:
        app: the application.
        host: the host that the server listens on.
    """

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app, self.host = app, host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refused = refusal(scope["method"], Headers(scope=scope), self.host)
        answer = self.app if refused is None else JSONResponse({"error": refused[1]}, refused[0])
        await answer(scope, receive, with_headers)


def _own(name: str, host: str) -> bool:
    """Whether the `Host` of a request is the server's: its name, or an address that no name hides."""
    hostname = _hostname(name)
    if hostname is None:
        return False
    if is_loopback(host):
        return hostname == host.lower() or is_loopback(hostname)
    return hostname in (host.lower(), "localhost") or _address(hostname) is not None


def _netloc(origin: str) -> str:
    """`host:port` of an origin; "" if it has none, as "null", or is malformed."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _hostname(name: str) -> str | None:
    """The host of `host:port` in lower case, without brackets; None if it is malformed."""
    try:
        return urlsplit(f"//{name}").hostname
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
