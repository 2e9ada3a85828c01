"""Whatever an upstream sends: one answer and one log line for each request, bounded memory, and no harm to others.

The cases are those of tests/support/misbehaving_upstream.py, which the clients of both engines are tested with, too.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from tests.support.node import ENGINES, Node, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Connection, Options, connect
from velocity_edge.errors import VelocityError

CONFIG = """\
server:
  listen: "127.0.0.1:0"
  workers: 1
  engine: ENGINE
  tls: {certificate: "DIRECTORY/certificate.pem", private_key: "DIRECTORY/key.pem"}
  telemetry: {structured_logs: true, access_log: json}
content:
  sites:
  - {hostname: velocity.test, root: "DIRECTORY/root", index: index.html}
  proxies:
  - hostname: localhost
    upstream: "http://127.0.0.1:PORT"
    timeouts: {connect: 2s, response: 1s, idle: 700ms}
    retries: {attempts: 1}
    health: {passive: {fails: 0}}
"""

#: Far above what one connection needs (64 KiB of a head, 64 KiB of a body), far below what the cases send (8 MiB each).
MAX_GROWTH_BYTES = 48 * 1024 * 1024
#: A request of another client takes milliseconds; this machine may be busy with other tests.
MAX_LATENCY_S = 1.5
AT_ONCE = 16


@dataclass
class Stage:
    node: Node
    engine: str


@pytest.fixture(scope="module", params=ENGINES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    with misbehaving_upstream() as upstream:
        config = CONFIG.replace("ENGINE", request.param).replace("PORT", str(upstream.port))
        with running_node(engine=request.param, config=config) as node:
            yield Stage(node, request.param)


async def end_of(connection: Connection, case: Case) -> str:
    """How the request of *case* ends: "" if rightly."""
    passed = b""
    try:
        response = await connection.request("GET", f"/{case.name}")
        async for chunk in response:
            passed += chunk
        end = REFUSED if response.status in (502, 504) else COMPLETE
    except VelocityError:
        end = CUT
    right = end in case.ends and (end != COMPLETE or case.body is None or passed == case.body)
    return "" if right else f"{case.name}: {end}, {passed[:40]!r}"


async def watch(node: Node, until: asyncio.Event) -> list[float]:
    """Times in seconds of requests of another client, which are served from a folder."""
    times: list[float] = []
    async with connect(node.url(), Options(cafile=node.ca, timeout_s=10.0)) as connection:
        while not until.is_set():
            begun_s = time.monotonic()
            response = await connection.request("GET", "/", authority="velocity.test")
            await response.read()
            times.append(time.monotonic() - begun_s)
            assert response.status == 200
            await asyncio.sleep(0.01)
    return times


async def run(stage: Stage, cases: Sequence[Case]) -> None:
    node, done = stage.node, asyncio.Event()
    others = asyncio.ensure_future(watch(node, done))
    at_once = asyncio.Semaphore(AT_ONCE)
    async with connect(node.url(), Options(cafile=node.ca, timeout_s=15.0)) as connection:

        async def one(case: Case) -> str:
            async with at_once:
                return await end_of(connection, case)

        wrong = [text for text in await asyncio.gather(*map(one, cases)) if text]
    done.set()
    times = await others
    assert not wrong, "\n".join(wrong)
    assert max(times) < MAX_LATENCY_S, f"another client waited {max(times):.3f} s"


def memory_bytes(node: Node) -> int:
    """The largest memory that the worker ever had."""
    [worker] = node.status()["workers"]
    status = Path(f"/proc/{worker['pid']}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def logged(node: Node) -> Counter[str]:
    """Lines of the access log by target."""
    lines = (json.loads(line) for line in node.log.splitlines() if line.startswith("{") and '"access"' in line)
    return Counter(line["target"].lstrip("/") for line in lines)


@pytest.mark.parametrize(
    "cases", [INVALID + TOLERATED, SLOW, EVERY_BYTE[::6]], ids=["invalid", "slow", "ends at any byte"]
)
def test_each_request_has_one_answer_and_one_log_line_and_others_are_served(
    stage: Stage, cases: Sequence[Case]
) -> None:
    asyncio.run(run(stage, cases))
    names = {case.name for case in cases}
    poll(lambda: names <= logged(stage.node).keys(), "a log line for each request", timeout_s=10)
    assert {name: n for name, n in logged(stage.node).items() if name in names and n != 1} == {}


def test_what_has_no_end_does_not_fill_the_memory(stage: Stage) -> None:
    asyncio.run(run(stage, TOLERATED))
    before = memory_bytes(stage.node)
    asyncio.run(run(stage, ENDLESS * 2))
    assert memory_bytes(stage.node) - before < MAX_GROWTH_BYTES
