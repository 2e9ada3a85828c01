"""A transfer survives a smaller MTU of the server's interface."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived
from aioquic.quic.configuration import QuicConfiguration

from tests.support.engine_driver import ENGINES
from tests.support.netns import Network, inside, ip, network
from tests.support.socket_server import SocketServer

pytestmark = [pytest.mark.root, pytest.mark.slow]
LENGTH = 4_000_000


@pytest.fixture
def wire() -> Iterator[Network]:
    with network() as made:
        yield made


class Download(QuicConnectionProtocol):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.received = 0
        self.half, self.done = asyncio.Event(), asyncio.Event()

    def quic_event_received(self, event: Any) -> None:
        for http in self.http.handle_event(event):
            if isinstance(http, DataReceived):
                self.received += len(http.data)
                if self.received > LENGTH // 4:
                    self.half.set()
                if http.stream_ended:
                    self.done.set()

    def start(self) -> None:
        stream = self._quic.get_next_available_stream_id()
        names = (b":method", b":scheme", b":authority", b":path")
        values = (b"GET", b"https", b"localhost", f"/file/{LENGTH}".encode())
        self.http.send_headers(stream, list(zip(names, values, strict=True)), end_stream=True)
        self.transmit()


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("engine", ENGINES)
def test_transfer_survives_a_smaller_interface_mtu(wire: Network, engine: str, family: int) -> None:
    async def run() -> None:
        address = wire.server_address[family]
        with inside(wire.server):
            server = SocketServer(engine, hosts=(address,))
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, server_name="localhost"
        )
        async with server:
            with inside(wire.client):
                # aioquic binds [::], which speaks IPv4, too.
                made = connect(address, server.port, configuration=configuration, create_protocol=Download)
                client: Any = await made.__aenter__()
            try:
                client.start()
                await asyncio.wait_for(client.half.wait(), 20)
                ip(f"-n {wire.server} link set veth mtu 1400")
                await asyncio.wait_for(client.done.wait(), 20)
            finally:
                client.close()
                await made.__aexit__(None, None, None)
        assert client.received == LENGTH
        count = server.engine.counters()
        assert count["path_mtu_lowered"] == (engine == "native")
        assert (count["send_errors"] > 0) == (engine == "native")

    asyncio.run(run())
