"""Invariant: a reader of a response gets its content in order, slides the window by what it took, and sees its end."""

from __future__ import annotations

import asyncio

import pytest
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived

from velocity_edge.client.response import Response
from velocity_edge.errors import CannotDo, Unavailable


def data(content: bytes, *, last: bool = False) -> H3Event:
    return DataReceived(content, 0, last)


def head(status: bytes) -> H3Event:
    return HeadersReceived([(b":status", status), (b"x-a", b"1")], 0, False)


class Reading:
    """A response, the sizes that its reader reported, and how often it waited."""

    def __init__(self) -> None:
        self.consumed: list[int] = []
        self.waited = 0
        self.response = Response(self.consumed.append, self._wait)

    async def _wait(self, event: asyncio.Event) -> None:
        self.waited += 1
        await event.wait()


def test_interim_responses_are_skipped() -> None:
    async def play() -> None:
        reading = Reading()
        reading.response.take(head(b"103"))
        assert (reading.response.status, reading.response.headers) == (0, [])
        waiting = asyncio.create_task(reading.response.wait_for_head())
        await asyncio.sleep(0)
        reading.response.take(head(b"200"))
        await waiting
        assert (reading.response.status, reading.response.header("x-a"), reading.waited) == (200, "1", 1)

    asyncio.run(play())


def test_only_read_content_slides_the_window() -> None:
    async def play() -> None:
        reading = Reading()
        for event in (data(b"abc"), data(b"de"), data(b"", last=True)):
            reading.response.take(event)
        chunks = aiter(reading.response)
        assert (await anext(chunks), reading.consumed) == (b"abc", [3])
        assert (await reading.response.read(), reading.consumed, reading.waited) == (b"de", [3, 2], 0)

    asyncio.run(play())


def test_an_error_follows_what_has_arrived() -> None:
    async def play() -> None:
        reading = Reading()
        reading.response.take(data(b"abc"))
        reading.response.fail(Unavailable("cannot get it"))
        chunks = aiter(reading.response)
        assert await anext(chunks) == b"abc"
        with pytest.raises(Unavailable):
            await anext(chunks)

    asyncio.run(play())


def test_an_error_after_the_end_is_ignored() -> None:
    async def play() -> None:
        reading = Reading()
        reading.response.take(data(b"abc", last=True))
        reading.response.fail(Unavailable("cannot get it"))
        assert await reading.response.read() == b"abc"

    asyncio.run(play())


def test_content_beyond_the_bound_is_refused() -> None:
    async def play() -> None:
        reading = Reading()
        reading.response.take(data(b"abc", last=True))
        with pytest.raises(CannotDo, match="cannot take more than 2 bytes"):
            await reading.response.read(max_bytes=2)

    asyncio.run(play())
