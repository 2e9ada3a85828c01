"""Whatever an upstream sends, a request ends once, soon, and in the right way; nothing of it stays."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.support.misbehaving_upstream import (
    COMPLETE,
    CUT,
    ENDLESS,
    EVERY_BYTE,
    INVALID,
    REFUSED,
    SLOW,
    TOLERATED,
    Case,
    misbehaving_upstream,
)
from tests.support.waiting import until
from velocity_edge.http.requests import Outcome
from velocity_edge.http.upstreams import ForwardRequest, PoolSettings
from workers.proxy.client import AttemptFailed, Client

SETTINGS = PoolSettings(
    response_timeout_ns=2_000_000_000, idle_timeout_ns=2_000_000_000, max_connections=32, max_idle_connections=32
)
GET = ForwardRequest(b"GET", b"/", b"a.test", [])
BEFORE_THE_HEAD = {Outcome.CLOSED_EARLY, Outcome.INVALID, Outcome.RESPONSE_TIMEOUT, Outcome.CONNECT_FAILED}
AFTER_IT = {Outcome.TRUNCATED, Outcome.IDLE_TIMEOUT}


async def end_of(client: Client, case: Case) -> tuple[str, bytes]:
    """How a request ends, and what has passed of the body."""
    passed = b""
    try:
        response = await client.request(replace(GET, target=f"/{case.name}".encode()))
    except AttemptFailed as error:
        return (REFUSED if error.outcome in BEFORE_THE_HEAD else str(error)), b""
    try:
        async for chunk in response.body:
            passed += chunk
    except AttemptFailed as error:
        return (CUT if error.outcome in AFTER_IT else str(error)), passed
    return COMPLETE, passed


async def run(cases: Sequence[Case], settings: PoolSettings = SETTINGS) -> None:
    with misbehaving_upstream() as upstream:
        client = Client(settings)
        client.use_addresses([upstream.address])

        at_once = asyncio.Semaphore(24)

        async def one(case: Case) -> str:
            async with at_once:
                end, passed = await end_of(client, case)
            right = end in case.ends and (end != COMPLETE or case.body is None or passed == case.body)
            return "" if right else f"{case.name}: {end}, passed {passed[:40]!r}"

        wrong = [text for text in await asyncio.gather(*(one(case) for case in cases)) if text]
        assert not wrong, "\n".join(wrong)
        await until(lambda: not client.counts().running, "the end of all requests")
        end, passed = await end_of(client, Case("good", (), frozenset()))
        assert (end, passed) == (COMPLETE, b"hello, world")
        client.close()
        await until(lambda: not client.counts().open, "all connections to be closed")


async def test_a_response_that_ends_at_any_byte_is_told_from_a_whole_one() -> None:
    closed = [case for case in EVERY_BYTE if case.name.startswith("closed")]
    await run([*closed, *[case for case in EVERY_BYTE if case not in closed][::4]])


async def test_what_is_no_response_is_refused() -> None:
    await run(INVALID)


async def test_what_is_tolerated_is_passed_on_exactly() -> None:
    await run(TOLERATED)


async def test_a_slow_upstream_ends_by_time() -> None:
    await run(SLOW, replace(SETTINGS, response_timeout_ns=300_000_000, idle_timeout_ns=200_000_000))


@pytest.mark.parametrize("case", ENDLESS, ids=lambda case: case.name)
async def test_what_has_no_end_is_not_kept(case: Case) -> None:
    tracemalloc.start()
    try:
        await run([case])
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
