"""An engine on real UDP sockets in the test's own event loop: a small endpoint, for tests of batches and clients."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

from tests.support import tls as tls_support
from tests.support.engine_driver import NODE_ID, ROOT, Application, Hooks, require_engine
from velocity_edge.keys.table import first_table
from velocity_edge.quic import udp
from velocity_edge.quic.admission import AdmissionControl
from velocity_edge.quic.datagrams import EngineSettings
from velocity_edge.quic.engine_keys import engine_keys
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.open_engine import open_engine
from velocity_edge.quic.single_use import UsedTokens
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.wire.counters import VERDICTS


class SocketServer:
    """`async with SocketServer("portable") as server`: serves `Application`; `port` is where."""

    def __init__(
        self,
        engine: str,
        *,
        hosts: tuple[str, ...] = ("127.0.0.1",),
        limits: Limits | None = None,
        policy: ServerPolicy | None = None,
        prepare: bool = True,
    ) -> None:
        require_engine(engine)
        limits = limits or Limits()
        table = first_table(ROOT, 0.0)
        self.hooks = Hooks(
            policy or tls_support.policy(), AdmissionControl(table, NODE_ID, 7, limits, UsedTokens.private(0.0))
        )
        settings = EngineSettings(worker_id=7, node_id=NODE_ID, limits=limits)
        self.engine, _ = open_engine(engine, settings, self.hooks)  # type: ignore[arg-type]
        self.engine.use_keys(engine_keys(table))
        self.engine.use_roster(frozenset((7,)))
        self.app = Application(self.engine)
        self.sockets = [self._bind(host) for host in hosts]
        self.missing = [udp.prepare(sock) for sock in self.sockets] if prepare else []
        self.port: int = self.sockets[0].getsockname()[1]
        self._in, self._out = self.engine.batch(), self.engine.batch()
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def _bind(host: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        if ":" in host:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        [(*_, name), *_] = socket.getaddrinfo(host, 0, sock.family, flags=socket.AI_NUMERICHOST)
        sock.bind(name)
        return sock

    async def __aenter__(self) -> SocketServer:
        self._loop = asyncio.get_running_loop()
        for listener, sock in enumerate(self.sockets):
            self._loop.add_reader(sock, self._readable, sock.fileno(), listener)
        return self

    async def __aexit__(self, *exception: Any) -> None:
        for sock in self.sockets:
            self._loop.remove_reader(sock)
            sock.close()
        if self._timer is not None:
            self._timer.cancel()
        self.app.file.close()
        count = self.engine.counters()
        assert count["datagrams_received"] == sum(count[name] for name in VERDICTS)

    def _readable(self, fd: int, listener: int) -> None:
        self._in.receive(fd, listener)
        self.app.handle(self.engine.receive(self._in, time.monotonic_ns()))
        self.flush()

    def flush(self) -> None:
        fds = [sock.fileno() for sock in self.sockets]
        for _ in range(64):
            if not self.engine.send(self._out, time.monotonic_ns()):
                break
            while not self._out.transmit(fds):
                pass
        due_ns = self.engine.next_timer_ns()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due_ns is None else self._loop.call_at(due_ns * 1e-9, self._on_timer)

    def _on_timer(self) -> None:
        now_ns = time.monotonic_ns()
        due_ns = self.engine.next_timer_ns()
        if due_ns is not None and due_ns <= now_ns:
            self.app.handle(self.engine.expire(now_ns))
        self.flush()
