"""Congestion control of the portable engine: aioquic's CUBIC and Reno with an initial window of 32 packets.

A post-quantum server flight is 10 to 18 kB; with the usual 10 packets it takes a second round trip even when the
address is known (measured at 50 ms: 2.27 round trips against 1.21 with 32). BBR is the native engine's.
"""

from __future__ import annotations

from typing import Final

from aioquic.quic.congestion.base import register_congestion_control
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.congestion.reno import RenoCongestionControl

INITIAL_WINDOW_PACKETS: Final = 32
#: EngineSettings.congestion_control -> the name registered with aioquic.
NAMES: Final = {"cubic": "velocity-cubic", "reno": "velocity-reno"}


class EdgeCubic(CubicCongestionControl):
    """RFC 9438 as aioquic has it; `reset` also runs after two idle seconds."""

    def reset(self) -> None:
        """Begin again, with our initial window."""
        super().reset()
        self.congestion_window = self._W_max = INITIAL_WINDOW_PACKETS * self._max_datagram_size


class EdgeReno(RenoCongestionControl):
    """RFC 9002 section 7 as aioquic has it."""

    def __init__(self, *, max_datagram_size: int) -> None:
        super().__init__(max_datagram_size=max_datagram_size)
        self.congestion_window = INITIAL_WINDOW_PACKETS * max_datagram_size


register_congestion_control(NAMES["cubic"], EdgeCubic)
register_congestion_control(NAMES["reno"], EdgeReno)
