"""Batches on real sockets: one side receives what the other sent, with the same addresses, ECN marks and segments."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.support.engine_driver import World
from velocity_edge.http.requests import Address
from velocity_edge.quic import udp
from velocity_edge.quic.datagrams import Batch, Train

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

REPOSITORY = Path(__file__).parents[2]
FAMILIES = [
    pytest.param(socket.AF_INET, "127.0.0.1", socket.AF_INET, "127.0.0.1", id="v4"),
    pytest.param(socket.AF_INET6, "::1", socket.AF_INET6, "::1", id="v6"),
    pytest.param(socket.AF_INET6, "::", socket.AF_INET, "127.0.0.1", id="v4-to-dual-stack"),
    pytest.param(socket.AF_INET, "0.0.0.0", socket.AF_INET, "127.0.0.9", id="v4-wildcard"),
]


def _socket(family: int, host: str) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind((host, 0))
    udp.prepare(sock)
    return sock


def _packed(family: int, host: str) -> bytes:
    return socket.inet_pton(family, host)


def _datagrams(batch: Batch) -> list[bytes]:
    return [
        train.data[start : start + train.segment_size]
        for train in batch
        for start in range(0, len(train.data), train.segment_size)
    ]


@pytest.mark.parametrize(("server_family", "server_host", "client_family", "host"), FAMILIES)
def test_trains_are_sent_and_received_in_both_directions(
    server_family: int, server_host: str, client_family: int, host: str
) -> None:
    w = World("native")
    out, back = w.engine.batch(), w.engine.batch()
    with _socket(server_family, server_host) as server, _socket(client_family, host) as client:
        port = server.getsockname()[1]
        client_address: Address = (_packed(client_family, host), client.getsockname()[1])
        server_address: Address = (_packed(client_family, host), port)
        sent = [os.urandom(1200) for _ in range(39)] + [os.urandom(77)]
        assert out.append(Train(b"".join(sent), 1200, server_address, client_address, 0, tos=2))
        assert out.append(Train(b"single", 6, server_address, client_address, 0))
        assert out.transmit([client.fileno()]) is True
        assert len(out) == 0

        assert back.receive(server.fileno(), 0) == len(back) > 0
        assert _datagrams(back) == [*sent, b"single"]
        trains = list(back)
        assert {train.peer for train in trains} == {client_address}
        assert {train.local for train in trains} == {server_address}
        assert trains[0].tos == 2
        assert trains[-1].tos == 0
        assert trains[0].segment_size == 1200
        if trains[0].data == b"".join(sent):
            assert len(trains) == 2  # one call each: UDP_SEGMENT and UDP_GRO

        # The response has the address that received the request as its source, also on a wildcard socket.
        back.clear()
        back.append(Train(b"answer", 6, client_address, server_address, 0))
        assert back.transmit([server.fileno()])
        assert out.receive(client.fileno(), 0) == 1
        [train] = out
        assert (train.data, train.peer) == (b"answer", server_address)
    count = w.counters()
    assert count["datagrams_sent"] == 42
    assert count["send_errors"] == count["gso_fallbacks"] == 0


def test_full_batch_leaves_the_rest_in_the_socket() -> None:
    w = World("native")
    batch = w.engine.batch()
    with _socket(socket.AF_INET, "127.0.0.1") as server, _socket(socket.AF_INET, "127.0.0.1") as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        for number in range(400):
            client.sendto(number.to_bytes(2, "big") * (1 + number % 2), server.getsockname())
        first = batch.receive(server.fileno(), 0)
        got = _datagrams(batch)
        assert first < 400
        assert batch.receive(server.fileno(), 0) == first
        batch.clear()
        batch.receive(server.fileno(), 0)
        got += _datagrams(batch)
        assert [int.from_bytes(data[:2], "big") for data in got] == list(range(len(got)))
        assert len(got) > first


def test_empty_datagram_is_counted_and_dropped() -> None:
    w = World("native")
    batch = w.engine.batch()
    with _socket(socket.AF_INET, "127.0.0.1") as server, _socket(socket.AF_INET, "127.0.0.1") as client:
        client.sendto(b"", server.getsockname())
        assert batch.receive(server.fileno(), 0) == 1
        w.engine.receive(batch, w.now_ns)
    assert w.verdicts() == {"dropped_malformed": 1}
    w.close()


def test_invalid_descriptor_raises_and_an_undeliverable_datagram_is_counted() -> None:
    w = World("native")
    batch = w.engine.batch()
    with pytest.raises(OSError, match="Bad file"):
        batch.receive(9999, 0)
    with pytest.raises(ValueError, match="listener"):
        batch.receive(0, 256)
    with _socket(socket.AF_INET, "127.0.0.1") as client:
        local = (b"\x7f\0\0\1", client.getsockname()[1])
        batch.append(Train(b"x" * 60_000, 60_000, (b"\x7f\0\0\1", 9), local, 0))  # larger than the path: lost, counted
        batch.append(Train(b"x", 1, (b"\xff\xff\xff\xff", 9), local, 0))  # broadcast: EACCES
        assert batch.transmit([client.fileno()]) is True
        assert len(batch) == 0
        batch.append(Train(b"x", 1, (b"\x7f\0\0\1", 9), local, 1))
        with pytest.raises(IndexError, match="listener 1"):
            batch.transmit([client.fileno()])
    assert w.counters()["send_errors"] >= 1


FAILING = """
    import json, os, socket, sys
    from tests.support.engine_driver import World
    from velocity_edge.quic import udp
    from velocity_edge.quic.datagrams import Train

    w = World("native")
    a, b = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "ab")
    for sock in (a, b):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
        udp.prepare(sock)
    batch, got = w.engine.batch(), w.engine.batch()
    sent = [number.to_bytes(2, "big") * 500 for number in range(60)]
    to, local = ((b"\\x7f\\0\\0\\1", s.getsockname()[1]) for s in (b, a))
    for start in (0, 20, 40):
        assert batch.append(Train(b"".join(sent[start : start + 20]), 1000, to, local, 0))
    turns = 0
    while not batch.transmit([a.fileno()]):
        turns += 1
        assert turns < 1000
    received = []
    while got.receive(b.fileno(), 0):
        received += [t.data[i : i + t.segment_size] for t in got for i in range(0, len(t.data), t.segment_size)]
        got.clear()
    count = w.counters()
    print(json.dumps([received == sent, turns, count["gso_fallbacks"], count["send_calls"], count["datagrams_sent"]]))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("shim") / "failing_sendmsg.so"
    source = REPOSITORY / "tests" / "support" / "c" / "failing_sendmsg.c"
    subprocess.run(["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", source, "-o", library], check=True)
    return library


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, [True, 0, 0, 3, 60]),
        # The first train finds that GSO fails; later ones to the same destination are sent without it.
        ({"FAIL_GSO": str(errno.EIO)}, [True, 0, 1, 60, 60]),
        ({"FAIL_GSO": str(errno.EINVAL)}, [True, 0, 1, 60, 60]),
        # After EAGAIN the rest stays in the batch, in order, also in the middle of a train.
        ({"FAIL_EVERY": "2"}, [True, 2, 0, 3, 60]),
        ({"FAIL_GSO": str(errno.EIO), "FAIL_EVERY": "7"}, [True, 10, 1, 60, 60]),
    ],
)
def test_errors_of_sendmsg_lose_no_datagram(shim: Path, environment: dict[str, str], expected: list[object]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FAILING)],
        env={**os.environ, **environment, "LD_PRELOAD": str(shim), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == str(expected).replace("True", "true")
