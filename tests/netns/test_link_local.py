"""A client with a link-local address is answered on its interface, also where two interfaces have its network."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from aioquic.asyncio.client import connect
from aioquic.quic.configuration import QuicConfiguration

from tests.support.engine_driver import ENGINES
from tests.support.netns import SERVER_MAC, Network, inside, ip, network
from tests.support.socket_server import SocketServer
from velocity_edge.quic import udp

pytestmark = [pytest.mark.root, pytest.mark.slow]
SERVER, CLIENT = "fe80::a", "fe80::b"


@pytest.fixture
def wire() -> Iterator[Network]:
    with network() as made:
        # Another interface with the same network.
        ip(f"-n {made.server} link add elsewhere type veth peer name far")
        for end in ("elsewhere", "far"):
            ip(f"-n {made.server} link set {end} up")
        for namespace, address in ((made.server, SERVER), (made.client, CLIENT)):
            ip(f"-n {namespace} address add {address}/64 dev veth nodad")
        ip(f"-n {made.server} address add {SERVER}/64 dev elsewhere nodad")
        ip(f"-n {made.client} neighbour replace {SERVER} lladdr {SERVER_MAC} dev veth nud permanent")
        yield made


@pytest.mark.parametrize("listen", ["::", f"{SERVER}%veth"])
@pytest.mark.parametrize("engine", ENGINES)
def test_answer_leaves_by_the_interface_of_the_request(wire: Network, engine: str, listen: str) -> None:
    async def run() -> None:
        with inside(wire.server):
            server = SocketServer(engine, hosts=(listen,))
            index = socket.if_nametoindex("veth")
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=["h3"], verify_mode=ssl.CERT_NONE, server_name="localhost", idle_timeout=5.0
        )
        async with server:
            with inside(wire.client):
                made = connect(f"{SERVER}%veth", server.port, configuration=configuration)
                client: Any = await made.__aenter__()
            await client.ping()
            client.close()
            await made.__aexit__(None, None, None)
        [initial, *_] = server.hooks.initials
        assert udp.unscoped(initial.peer[0]) == (socket.inet_pton(socket.AF_INET6, CLIENT), index)
        assert server.engine.counters()["send_errors"] == 0

    asyncio.run(run())
