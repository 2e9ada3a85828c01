"""A document is asked for once, however many wait; it is refreshed while it is used, and not used too old."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.site import Clock
from workers.middleware.auth.document import (
    FRESH_S,
    PAUSE_AFTER_FAILURE_S,
    PAUSE_S,
    STALE_S,
    Document,
    Unavailable,
)


class Source:
    """Version after version, or nothing."""

    def __init__(self) -> None:
        self.clock = Clock(1000.0)
        self.asked = 0
        self.up = True
        self.go = asyncio.Event()
        self.go.set()
        self.document = Document("keys", self.get, self.clock)

    async def get(self) -> int:
        self.asked += 1
        await self.go.wait()
        if not self.up:
            raise Unavailable("refused")
        return self.asked


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_many_wait_for_one_request() -> None:
    source = Source()
    source.go.clear()
    waiting = [asyncio.ensure_future(source.document.load()) for _ in range(50)]
    await settle()
    waiting[0].cancel()  # its client left; the others still get the document
    source.go.set()
    assert await asyncio.gather(*waiting[1:]) == [1] * 49
    assert source.asked == 1


async def test_an_old_document_is_refreshed_in_the_background_and_a_stale_one_is_not_used() -> None:
    source = Source()
    assert source.document.peek() is None
    assert await source.document.load() == 1
    source.clock.now_s += FRESH_S - 1
    assert source.document.peek() == 1
    await settle()
    assert source.asked == 1
    source.clock.now_s += 1
    assert source.document.peek() == 1
    await settle()
    assert (source.asked, source.document.peek()) == (2, 2)
    source.up = False
    source.clock.now_s += STALE_S - 1
    assert source.document.peek() == 2
    await settle()
    assert source.document.peek() == 2
    source.clock.now_s += 1
    assert source.document.peek() is None
    with pytest.raises(Unavailable):
        await source.document.load()


async def test_a_failure_is_followed_by_a_pause_and_then_another_try() -> None:
    source = Source()
    source.up = False
    for _ in range(10):
        with pytest.raises(Unavailable, match="refused"):
            await source.document.load()
    assert source.asked == 1
    source.up = True
    source.clock.now_s += PAUSE_AFTER_FAILURE_S
    assert await source.document.load() == 2


async def test_a_new_one_can_be_asked_for_only_after_a_pause() -> None:
    """However many unknown key ids clients invent."""
    source = Source()
    await source.document.load()
    for _ in range(10):
        assert await source.document.load(again=True) == 1
    source.clock.now_s += PAUSE_S
    for _ in range(10):
        assert await source.document.load(again=True) == 2
    assert source.asked == 2
