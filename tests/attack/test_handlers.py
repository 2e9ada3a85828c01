"""With any number of requests at once, a turn of the loop gives handlers bounded time and clients a fair share.

The application is the worker's own (workers/serve/exchanges.py); time is simulated: each response costs what
the handler declares, on a clock that nothing else advances.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.engine_driver import StockClient, World
from tests.support.site import always, site_section, write
from workers.handlers.static.beneath import Descriptor
from workers.handlers.static.open_files import OpenFiles
from workers.handlers.static.site import StaticHandler
from workers.http import Request, Response, plain
from workers.serve.exchanges import Exchanges
from workers.serve.revision import Revision
from workers.serve.turns import TURN_NS

Make = Callable[..., World]


class Site:
    """A worker's requests over a world's engine. `/slow` costs 95 ms, anything else a fiftieth of a turn."""

    def __init__(self, world: World, open_files: OpenFiles | None = None) -> None:
        self.world = world
        self.now_ns = 0
        self.turns_ns: list[int] = []
        self.exchanges = Exchanges(
            world.engine,
            asyncio.get_running_loop().create_task,
            lambda: None,
            send_high_bytes=world.app.send_high_bytes,
            write_log=lambda lines: None,
            now_ns=lambda: self.now_ns,
            open_files=open_files,
        )
        self.exchanges.use(Revision(1, always(self.handle)))
        world.app.handle = self.exchanges.handle  # type: ignore[assignment]

    def handle(self, request: Request) -> Response:
        self.now_ns += 95_000_000 if request.path == b"/slow" else TURN_NS // 50
        return plain(200)

    async def turn(self, seconds: float = 0.01) -> None:
        """Run the network and then the loop for one turn; record the time of handlers."""
        before_ns = self.now_ns
        self.world.run(seconds=seconds)
        await asyncio.sleep(0)
        self.turns_ns.append(self.now_ns - before_ns)


def ask(client: StockClient, path: str, times: int) -> None:
    for _ in range(times):
        client.request("GET", path)


async def test_slow_requests_in_one_train_do_not_delay_others(world: Make) -> None:
    """All in one turn would take 9.5 s without a heartbeat, and the worker would be killed."""
    asked = 100
    w = world()
    greedy, honest = w.ready(), w.ready()
    site = Site(w)
    ask(greedy, "/slow", asked)
    await site.turn()
    response = honest.request("GET", "/")
    answered_in = None
    for number in range(asked + 50):
        await site.turn()
        if response.over and answered_in is None:
            answered_in = number
    # A turn finishes what it began: the other requests of a packet train wait.
    assert max(site.turns_ns) <= 2 * 95_000_000 + 10_000_000
    assert answered_in is not None
    assert answered_in <= 5
    assert response.status == 200
    assert site.exchanges.running == 0
    assert w.counters()["responses_2xx"] == asked + 1


async def test_streams_reset_while_queued_leave_no_memory(world: Make) -> None:
    w = world()
    client = w.ready()
    site = Site(w)
    responses = [client.request("GET", "/slow") for _ in range(100)]
    await site.turn()
    assert site.exchanges.running > 90
    for response in responses:
        client.quic.reset_stream(response.stream_id, 0x10C)
        client.quic.stop_stream(response.stream_id, 0x10C)
    for _ in range(5):
        await site.turn(1.0)
    assert site.exchanges.running == 0
    assert not site.exchanges._turns.backlog
    assert site.now_ns < 10 * 95_000_000


async def test_stalled_clients_hold_a_bounded_share_of_open_files(world: Make, tmp_path: Path) -> None:
    """Each stream requests another large file and reads nothing: each would hold a descriptor, without a bound."""
    for number in range(100):
        write(tmp_path / f"{number}.bin", b"x" * 70_000)
    gc.collect()
    w = world()
    # The windows of these clients are never moved.
    greedy = [w.ready(max_data=20_000, max_stream_data=500) for _ in range(3)]
    honest = w.ready()
    root = Descriptor(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY))
    before = Descriptor.alive
    open_files = OpenFiles(before + 40)
    site = Site(w, open_files)
    static = StaticHandler(root, site_section(tmp_path), time.time, open_files=open_files)
    site.exchanges.use(Revision(2, always(static)))
    for client in greedy:
        client.quic._write_connection_limits = lambda builder, space: None
        client.quic._write_stream_limits = lambda builder, space, stream: None
        for number in range(80):
            client.request("GET", f"/{number}.bin")
        for _ in range(3):
            await site.turn(0.2)
            assert Descriptor.alive - before <= 40
    response = honest.request("GET", "/99.bin")
    for _ in range(100):
        await site.turn(0.1)
    assert (response.status, len(response.body)) == (200, 70_000)
    assert site.exchanges.counts["open_files_refused"] > 100
    for client in greedy:
        client.close()
    for _ in range(20):
        await site.turn(1.0)
    assert site.exchanges._open_files.in_flight == {}
