"""Every stream gets every event once, in order, behind the state as it was."""

import asyncio
from collections.abc import AsyncIterator

from dcache.eval.studio import events as module
from dcache.eval.studio.events import Events, encoded


async def take(stream: AsyncIterator[bytes], count: int) -> list[bytes]:
    return [await anext(stream) for _ in range(count)]


def test_two_pages_see_the_same_events_in_order() -> None:
    async def script() -> None:
        events = Events()
        events.publish("lost", 0)
        first = events.stream("state", lambda: "one")
        assert await take(first, 1) == [encoded("state", "one", 1)]
        events.publish("began", 1)
        second = events.stream("state", lambda: "two")
        assert await take(second, 1) == [encoded("state", "two", 2)]
        await asyncio.to_thread(events.publish, "done", 2)
        assert await take(first, 2) == [encoded("began", 1, 2), encoded("done", 2, 3)]
        assert await take(second, 1) == [encoded("done", 2, 3)]
        events.close()
        assert [message async for message in first] == []
        late = events.stream("state", lambda: 0)
        assert len([message async for message in late]) == 1

    asyncio.run(script())


def test_a_stream_that_is_left_is_forgotten() -> None:
    async def script() -> Events:
        events = Events()
        stream = events.stream("state", lambda: 0)
        await anext(stream)
        assert len(events._streams) == 1
        await stream.aclose()  # type: ignore[attr-defined]
        assert len(events._streams) == 0
        left = events.stream("state", lambda: 0)
        await anext(left)
        return events

    # The second one is left open, and its loop is gone.
    asyncio.run(script()).publish("done", 1)


def test_a_page_that_reads_nothing_is_cut_off() -> None:
    async def script() -> None:
        events = Events()
        stream = events.stream("state", lambda: 0)
        await anext(stream)
        for number in range(module.MOST_WAITING + 5):
            events.publish("progress", number)
        await asyncio.sleep(0)
        messages = [message async for message in stream]
        assert len(messages) == module.MOST_WAITING

    asyncio.run(script())


def test_silence_is_broken_by_a_comment() -> None:
    async def script() -> None:
        stream = Events().stream("state", lambda: 0)
        await anext(stream)
        assert (await anext(stream)).startswith(b":")

    before, module.SECONDS_OF_SILENCE = module.SECONDS_OF_SILENCE, 0.0
    try:
        asyncio.run(script())
    finally:
        module.SECONDS_OF_SILENCE = before
