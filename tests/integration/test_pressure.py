"""A node under attack reports it in its log, in `status` and in its metrics, and serves new clients meanwhile."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
from aioquic.asyncio import connect as aioquic_connect
from aioquic.quic.configuration import QuicConfiguration

from tests.support.attacker import hello, hello_datagrams
from tests.support.node import ENGINES, running_node
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect
from velocity_edge.quic.limits import Limits

CLOSE = b"\x1c\0\0\0"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_flood_of_failing_handshakes_is_reported_and_new_clients_are_served(engine: str) -> None:
    with running_node(engine=engine) as node:
        assert node.status()["pressure"] == []
        flood = [
            datagram for _ in range(Limits().retry_threshold + 200) for datagram in hello_datagrams(hello(), CLOSE)
        ]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
            for number, datagram in enumerate(flood):
                foreign.sendto(datagram, ("127.0.0.1", node.port))
                if number % 20 == 0:
                    poll(lambda: not stranger_waits(node.port), "the worker to read")

        async def get() -> int:
            async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as connection:
                return (await connection.request("GET", "/")).status

        assert asyncio.run(get()) == 200
        row = poll(lambda: next((r for r in node.status()["pressure"] if r["rule"] == "retry"), None), "the rule")
        assert row["total"] >= 100
        assert row["since_at_s"] > node.status()["started_at_s"]
        counters = node.status()["counters"]
        assert counters["verdict_accepted"] <= Limits().retry_threshold + 1
        shown = node.command("status")
        assert "PRESSURE: new clients must validate their address" in shown.stdout
        assert shown.returncode in (0, 6)
        [line] = [line for line in node.log.splitlines() if "under pressure: new clients must validate" in line]
        assert "warning" in line
        _, page = node.admin("GET", "/v1/metrics")
        assert b'velocity_pressure{rule="retry"} 1.0' in page
        assert b'velocity_pressure{rule="half_open"} 0.0' in page


async def visit(port: int, token: bytes = b"") -> bytes:
    """Connect as stock aioquic does, with *token*; return the NEW_TOKEN token that comes with the handshake."""
    tokens: list[bytes] = []
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name="localhost", token=token)
    configuration.verify_mode = ssl.CERT_NONE
    async with aioquic_connect("127.0.0.1", port, configuration=configuration, token_handler=tokens.append) as client:
        await client.ping()
    return tokens[-1]


@pytest.mark.slow
def test_used_token_stays_used_after_worker_and_supervisor_are_replaced() -> None:
    with running_node() as node:

        def use(token: bytes) -> int:
            """Connect with this token; return how many used tokens the node has seen."""
            opened = node.status()["counters"]["handshakes_completed"] + 1
            asyncio.run(visit(node.port, token))
            node.counter("handshakes_completed", opened)
            return node.status()["counters"]["tokens_seen_again"]

        first, second = asyncio.run(visit(node.port)), asyncio.run(visit(node.port))
        node.counter("handshakes_completed", 2)
        assert [use(first), use(first)] == [0, 1]
        before = {worker["pid"] for worker in node.status()["workers"]}
        assert node.command("admin", "restart", timeout_s=60).returncode == 0
        poll(lambda: before.isdisjoint(w["pid"] for w in node.status()["workers"]), "other workers", 30)
        assert use(first) == 2
        adoptions = node.status()["adoptions"]
        # The supervisor executes itself again and adopts its workers; then the workers are replaced.
        assert node.command("admin", "upgrade", timeout_s=90).returncode == 0
        poll(lambda: node.status()["adoptions"] > adoptions, "an adoption", 60)
        assert [use(first), use(second), use(second)] == [3, 3, 4], "and one that was never used is good still"


def stranger_waits(port: int) -> bool:
    """Whether datagrams wait in a socket of this port (/proc/net/udp: local address, rx_queue)."""
    with open("/proc/net/udp") as table:
        rows = [line.split() for line in table][1:]
    return any(int(row[1].split(":")[1], 16) == port and int(row[4].split(":")[1], 16) for row in rows)
