"""A handshake that tells admission what it costs and when it is complete (half_open.py says what for)."""

from __future__ import annotations

from collections.abc import Callable

from velocity_edge.quic.half_open import HalfOpen, Opening
from velocity_edge.tls.handshake import ServerHandshake
from velocity_edge.tls.policy import ServerPolicy
from velocity_edge.tls.transport import HandshakeTransport


class CountedHandshake(ServerHandshake):
    """Implements `transport.Handshake`. *cpu_clock_ns* is the CPU time of this thread."""

    def __init__(
        self,
        policy: ServerPolicy,
        transport: HandshakeTransport,
        half_open: HalfOpen,
        opening: Opening,
        cpu_clock_ns: Callable[[], int],
    ) -> None:
        super().__init__(policy, transport)
        self._half_open = half_open
        self._opening = opening
        self._cpu_clock_ns = cpu_clock_ns

    def feed(self, level: int, message: bytes) -> int:
        """Take one whole message of this level. Return -1, or the alert to fail with."""
        begun_ns = self._cpu_clock_ns()
        result = super().feed(level, message)
        if self.done:
            self._half_open.complete(self._opening)
        else:
            self._half_open.spend(self._opening, (self._cpu_clock_ns() - begun_ns) // 1000)
        return result
