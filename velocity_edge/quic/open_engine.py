"""Which engine serves: `native` where it is available, else `portable`; and the reason, for status.

Only the engine that serves is loaded: aioquic costs half a second to import, the native engine needs shared libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

from velocity_edge.errors import Unavailable
from velocity_edge.http.requests import Requests
from velocity_edge.quic.datagrams import Datagrams, EngineSettings, Upcalls
from velocity_edge.tls import schedule

EngineChoice = Literal["auto", "native", "portable"]

#: What only the native engine has; `status` says it when the portable one serves.
PORTABLE_LACKS = "no PMTUD, no ECN, no BBR, no automatic key update, Python per packet"


class Engine(Requests, Datagrams, Protocol):
    """QUIC v1 and HTTP/3 for all connections of one worker.

    Only what opens an engine names this type; each user takes the half that it needs.
    """


@dataclass(frozen=True, slots=True)
class Chosen:
    """An engine whose modules are loaded: `open` makes it, also after the process lost the right to read files."""

    name: str
    reason: str
    open: Callable[[EngineSettings, Upcalls], Engine]


def choose_engine(choice: EngineChoice) -> Chosen:
    """Load an engine's modules, or raise `Unavailable` when the native one is required and not available."""
    missing = ""
    if choice != "portable":
        missing = native_missing()
        if not missing:
            from velocity_edge.quic.native import NativeEngine

            return Chosen("native", "asked for" if choice == "native" else "ngtcp2 and nghttp3 are here", NativeEngine)
        if choice == "native":
            raise Unavailable(f"cannot use the native engine: {missing}")
    why = "asked for" if choice == "portable" else f"the native engine is not here: {missing}"
    from velocity_edge.quic.portable import PortableEngine

    def open_portable(settings: EngineSettings, upcalls: Upcalls) -> Engine:
        refuse_settings("portable", settings)
        return PortableEngine(settings, upcalls)

    return Chosen("portable", f"{why} ({PORTABLE_LACKS})", open_portable)


def refuse_settings(engine_name: str, settings: EngineSettings) -> None:
    """Raise `Unavailable` when this engine cannot do what the settings want."""
    if engine_name == "portable" and settings.congestion_control == "bbr":
        raise Unavailable("cannot use BBR with the portable engine: expected cubic or reno")


def open_engine(choice: EngineChoice, settings: EngineSettings, upcalls: Upcalls) -> tuple[Engine, str]:
    """Return the engine and the reason for it. Raises `Unavailable` when the required one is not available."""
    chosen = choose_engine(choice)
    return chosen.open(settings, upcalls), chosen.reason


def native_missing() -> str:
    """Return why the native engine is not available, or an empty string."""
    from velocity_edge.quic import native

    return native.MISSING


@cache
def fastest_suites() -> Mapping[int, schedule.Suite]:
    """Return the TLS cipher suites on the native extension's HMAC where that is built, else on hashlib's. Same bytes.

    The portable engine uses them, too.
    """
    if native_missing():
        return schedule.SUITES
    from velocity_edge.quic.native import hmac_sha256, hmac_sha384

    return schedule.suites(hmac_sha256, hmac_sha384)
