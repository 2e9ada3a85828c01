"""An engine (`Requests` and `Datagrams`) without QUIC: tests put events in and look at what was answered.

The batch reads and sends on real sockets (one datagram per train), so that an endpoint can be tested with a kernel.
Each datagram received becomes the events that `on_datagram` returns for it, `outgoing` is sent as it is.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from velocity_edge.http.requests import Event, FileRange, RequestReceived
from velocity_edge.quic.datagrams import EngineKeys, EngineSettings, Train


class FakeBatch:
    def __init__(self, capacity: int = 4) -> None:
        self.trains: list[Train] = []
        self.capacity = capacity
        self.would_block = False

    def receive(self, fd: int, listener: int) -> int:
        sock = socket.socket(fileno=fd)
        try:
            while len(self.trains) < self.capacity:
                try:
                    data, (host, port) = sock.recvfrom(65_535)
                except BlockingIOError:
                    break
                peer = (socket.inet_aton(host), port)
                self.trains.append(Train(data, len(data), peer, (b"\x7f\0\0\1", 0), listener))
        finally:
            sock.detach()
        return len(self.trains)

    def transmit(self, fds: Sequence[int]) -> bool:
        if self.would_block:
            return False
        for train in self.trains:
            sock = socket.socket(fileno=fds[train.listener])
            sock.sendto(train.data, (socket.inet_ntoa(train.peer[0]), train.peer[1]))
            sock.detach()
        self.trains.clear()
        return True

    def append(self, train: Train) -> bool:
        if len(self.trains) >= self.capacity:
            return False
        self.trains.append(train)
        return True

    def __len__(self) -> int:
        return len(self.trains)

    def __iter__(self) -> Iterator[Train]:
        return iter(self.trains)

    def clear(self) -> None:
        self.trains.clear()


@dataclass
class Answer:
    """What one stream got."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    file: FileRange | None = None
    fin: bool = False
    reset: int | None = None
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass
class FakeEngine:
    name: str = "fake"
    on_datagram: Callable[[Train], list[Event]] = lambda train: []
    answers: dict[int, Answer] = field(default_factory=dict)
    #: Informational responses, by stream.
    interim: dict[int, list[int]] = field(default_factory=dict)
    credited: dict[int, int] = field(default_factory=dict)
    resets: dict[int, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    buffered: dict[int, int] = field(default_factory=dict)
    outgoing: list[Train] = field(default_factory=list)
    stray: list[tuple[int, bytes]] = field(default_factory=list)
    timer_ns: int | None = None
    expired: int = 0
    alive: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: Connection -> the CID config ids that it holds ids of.
    held: dict[int, set[int]] = field(default_factory=dict)
    renames: bool = False
    renamed: list[int] = field(default_factory=list)
    goaways: list[tuple[int, bool]] = field(default_factory=list)
    closed: dict[int, int] = field(default_factory=dict)
    keys: EngineKeys | None = None
    settings: EngineSettings | None = None
    roster: frozenset[int] = frozenset()
    counted: dict[str, int] = field(default_factory=dict)
    batches: list[FakeBatch] = field(default_factory=list)
    received: list[Train] = field(default_factory=list)

    def batch(self) -> FakeBatch:
        self.batches.append(FakeBatch())
        return self.batches[-1]

    def use_settings(self, settings: EngineSettings) -> None:
        self.settings = settings

    def use_keys(self, keys: EngineKeys) -> None:
        self.keys = keys

    def use_roster(self, live_worker_ids: frozenset[int]) -> None:
        self.roster = live_worker_ids

    def receive(self, batch: Any, now_ns: int) -> list[Event]:
        events: list[Event] = []
        for train in batch:
            self.received.append(train)
            events += self.on_datagram(train)
        batch.clear()
        return events

    def strays(self) -> list[tuple[int, bytes]]:
        strays, self.stray = self.stray, []
        return strays

    def send(self, batch: Any, now_ns: int) -> bool:
        while self.outgoing and batch.append(self.outgoing[0]):
            self.outgoing.pop(0)
        return len(batch) > 0

    def next_timer_ns(self) -> int | None:
        return self.timer_ns

    def expire(self, now_ns: int) -> list[Event]:
        self.expired += 1
        self.timer_ns = None
        return []

    def respond(
        self, stream: int, status: int, headers: Any, body: bytes | FileRange | None = None, *, fin: bool = True
    ) -> bool:
        if stream in self.gone:
            return False
        assert stream not in self.answers, "answered twice"
        if status < 200:
            assert not fin
            self.interim.setdefault(stream, []).append(status)
            return True
        file = body if isinstance(body, FileRange) else None
        self.answers[stream] = Answer(status, list(headers), body if isinstance(body, bytes) else b"", file, fin)
        return True

    def write(self, stream: int, data: bytes, *, fin: bool) -> int:
        if stream in self.gone:
            return -1
        answer = self.answers[stream]
        assert not answer.fin, "written after the end"
        answer.body += data
        answer.fin = fin
        self.buffered[stream] = self.buffered.get(stream, 0) + len(data)
        return self.buffered[stream]

    def trailers(self, stream: int, fields: Any) -> bool:
        if stream in self.gone:
            return False
        answer = self.answers[stream]
        assert not answer.fin, "written after the end"
        answer.trailers, answer.fin = list(fields), True
        return True

    def credit(self, stream: int, n_bytes: int) -> None:
        self.credited[stream] = self.credited.get(stream, 0) + n_bytes

    def reset(self, stream: int, error_code: int) -> None:
        self.resets[stream] = error_code

    def close(self, connection: int, error_code: int, reason: str = "") -> None:
        self.closed[connection] = error_code
        self.alive.pop(connection, None)
        self.held.pop(connection, None)

    def goaway(self, connection: int, *, final: bool) -> None:
        self.goaways.append((connection, final))

    def connections(self) -> list[tuple[int, int, int]]:
        return [(connection, age_ns, requests) for connection, (age_ns, requests) in self.alive.items()]

    def connections_by_config(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for configs in self.held.values():
            for config_id in configs:
                counts[config_id] = counts.get(config_id, 0) + 1
        return counts

    def connections_on(self, config_ids: Any) -> list[int]:
        return [connection for connection, configs in self.held.items() if configs & set(config_ids)]

    def rename(self, connection: int) -> bool:
        self.renamed.append(connection)
        return self.renames

    def counters(self) -> dict[str, int]:
        return dict(self.counted)


def request(
    stream: int,
    path: bytes = b"/",
    headers: Sequence[tuple[bytes, bytes]] = (),
    *,
    method: bytes = b"GET",
    authority: bytes = b"localhost",
    fin: bool = True,
    connection: int = 1,
    early: bool = False,
    protocol: bytes = b"",
) -> RequestReceived:
    """Return the event of a request."""
    return RequestReceived(
        connection, stream, method, b"https", authority, path, tuple(headers), fin, early, protocol=protocol
    )
