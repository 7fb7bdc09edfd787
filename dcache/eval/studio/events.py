"""`Events`: what happens, told to every open page; Server-Sent Events."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

# A page that reads so few events is cut off; it connects again and gets the state.
MOST_WAITING = 1000
# A comment is sent after so many seconds without an event: a page that is gone is noticed then.
SECONDS_OF_SILENCE = 15.0


class Events:
    """Hands events from the worker's thread to the pages' streams, in order."""

    def __init__(self) -> None:
        # Reentrant: a signal's handler closes the streams, wherever this thread stands.
        self._lock = threading.RLock()
        self._number = 0
        self._streams: dict[asyncio.Queue[bytes | None], asyncio.AbstractEventLoop] = {}
        self._closed = False

    def publish(self, name: str, content: Any) -> None:
        """Send an event to all open streams.

        Args:
            name: kind of event.
            content: JSON values.
        """
        with self._lock:
            self._number += 1
            message = encoded(name, content, self._number)
            for queue, loop in list(self._streams.items()):
                self._put(queue, loop, message)

    def close(self) -> None:
        """End all streams, also those that are opened later."""
        with self._lock:
            self._closed = True
            for queue, loop in list(self._streams.items()):
                self._put(queue, loop, None)

    async def stream(self, name: str, content: Any) -> AsyncIterator[bytes]:
        """The events from now on, behind a first one.

        Args:
            name: kind of the first event.
            content: function that gives its content; it is called once nothing can be missed any more.
        """
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        with self._lock:
            self._streams[queue] = asyncio.get_running_loop()
            first = encoded(name, content(), self._number)
            if self._closed:
                queue.put_nowait(None)
        try:
            yield first
            while True:
                try:
                    message = await asyncio.wait_for(queue.get(), SECONDS_OF_SILENCE)
                except TimeoutError:
                    message = b": nothing new\n\n"
                if message is None:
                    return
                yield message
        finally:
            with self._lock:
                self._streams.pop(queue, None)

    def _put(
        self, queue: asyncio.Queue[bytes | None], loop: asyncio.AbstractEventLoop, message: bytes | None
    ) -> None:
        try:
            loop.call_soon_threadsafe(_put, queue, message)
        except RuntimeError:
            # The loop was closed with its streams.
            self._streams.pop(queue, None)


def encoded(name: str, content: Any, number: int) -> bytes:
    r"""One event as it is sent.

    >>> encoded("stopped", {"number": 3}, 7)
    b'id: 7\nevent: stopped\ndata: {"number": 3}\n\n'
    """
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(content, allow_nan=False)}\n\n".encode()


def _put(queue: asyncio.Queue[bytes | None], message: bytes | None) -> None:
    queue.put_nowait(message if queue.qsize() < MOST_WAITING else None)
