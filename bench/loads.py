"""The kinds of work, how each is requested, and its figure.

A figure is a rate (more is better) or a time or size (less is better); beside it is the server's CPU time per unit
of work, which is more reliable where the client or the network was the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.lab import SERVER_ADDRESS, BenchError, Lab, Measured, measure
from bench.servers import FILES, Server

POST_QUANTUM = "X25519MLKEM768"
CLASSICAL = "X25519"
IDLE_CONNECTIONS = 500


@dataclass(frozen=True, slots=True)
class Figure:
    """One result: the value, and the server's CPU microseconds per unit of work (0 where that has no meaning)."""

    value: float
    cpu_us: float
    #: Share of a core used by other processes meanwhile, and failed requests or handshakes.
    foreign: float
    failed: int


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of work."""

    name: str
    unit: str
    more_is_better: bool
    arguments: tuple[str, ...]
    figure: Callable[[Measured], tuple[float, float]]
    group: str = POST_QUANTUM
    quick: bool = True
    hold_s: float = 0.0
    #: In the first round only.
    once: bool = False


def _handshakes(measured: Measured) -> tuple[float, float]:
    count = int(measured.said["handshakes"])
    return count / measured.said["seconds"], _per_unit(measured, count)


def _resumed(measured: Measured) -> tuple[float, float]:
    if measured.said["resumed"] < 0.9 * measured.said["handshakes"]:
        raise BenchError(f"only {measured.said['resumed']} of {measured.said['handshakes']} handshakes were resumed")
    return _handshakes(measured)


def requests(measured: Measured) -> tuple[float, float]:
    count = int(measured.said["requests"])
    return count / measured.said["seconds"], _per_unit(measured, count)


def gbit(measured: Measured) -> tuple[float, float]:
    n_bytes = int(measured.said["bytes"])
    return float(n_bytes * 8 / 1e9 / measured.said["seconds"]), _per_unit(measured, n_bytes / (1 << 20))


def p50(measured: Measured) -> tuple[float, float]:
    return float(measured.said["request_ms"]["p50"]), _per_unit(measured, measured.said["requests"])


def p99(measured: Measured) -> tuple[float, float]:
    return float(measured.said["request_ms"]["p99"]), 0


def _connection_p99(measured: Measured) -> tuple[float, float]:
    return float(measured.said["connection_ms"]["p99"]), 0


def _idle_kib(measured: Measured) -> tuple[float, float]:
    return (measured.open_bytes - measured.before_bytes) / 1024 / IDLE_CONNECTIONS, 0


def _per_unit(measured: Measured, count: float) -> float:
    """The CPU was counted from start to end, the work only after the warm-up: scale by the times."""
    if not count:
        return 0.0
    return 1e6 * measured.server_cpu_s * (float(measured.said["seconds"]) / measured.wall_s) / count


def get(name: str, connections: int, streams: int) -> tuple[str, ...]:
    size = ("--path", f"/{name}", "--bytes", str(FILES[name]))
    return ("requests", *size, "--connections", str(connections), "--streams", str(streams))


_CONNECT = ("handshakes", "--path", "/tiny", "--bytes", str(FILES["tiny"]), "--connections", "32")

LOADS = (
    # First, and once: a heap that has grown before would have room for them.
    Load(
        f"memory of {IDLE_CONNECTIONS} idle connections",
        "KiB each",
        False,
        ("idle", "--path", "/tiny", "--connections", str(IDLE_CONNECTIONS)),
        _idle_kib,
        hold_s=2.0,
        once=True,
    ),
    Load("handshakes X25519MLKEM768", "/s", True, _CONNECT, _handshakes),
    Load("handshakes X25519", "/s", True, _CONNECT, _handshakes, group=CLASSICAL),
    Load("resumed X25519MLKEM768", "/s", True, (*_CONNECT, "--resume"), _resumed),
    Load("resumed X25519", "/s", True, (*_CONNECT, "--resume"), _resumed, group=CLASSICAL, quick=False),
    Load("requests 1 KiB, 1 x 100", "/s", True, get("1k", 1, 100), requests, quick=False),
    Load("requests 1 KiB, 10 x 100", "/s", True, get("1k", 10, 100), requests),
    Load("requests 1 KiB, 100 x 10", "/s", True, get("1k", 100, 10), requests, quick=False),
    Load("bulk 1 MiB, 10 connections", "Gbit/s", True, get("1m", 10, 1), gbit, quick=False),
    Load("bulk 100 MiB, 1 connection", "Gbit/s", True, get("100m", 1, 1), gbit),
    Load("bulk 100 MiB, 4 connections", "Gbit/s", True, get("100m", 4, 1), gbit, quick=False),
    Load("p50 at 1,000 requests/s", "ms", False, (*get("1k", 20, 1), "--rate", "1000"), p50, quick=False),
    Load("p99 at 1,000 requests/s", "ms", False, (*get("1k", 20, 1), "--rate", "1000"), p99),
    Load("p99 at 50 new connections/s", "ms", False, (*_CONNECT, "--rate", "50"), _connection_p99, quick=False),
)


def run(lab: Lab, server: Server, load: Load, post_quantum: bool, duration_s: float) -> Figure:
    """Do one kind of work once. A server without post-quantum groups gets X25519 where the group isn't the point."""
    if load.group == POST_QUANTUM and "X25519MLKEM768" in load.name and not post_quantum:
        raise BenchError("has no post-quantum group")
    group = load.group if post_quantum else CLASSICAL
    where = ("--address", SERVER_ADDRESS, "--port", str(server.port), "--groups", group)
    times = () if load.hold_s else ("--duration", str(duration_s))
    measured = measure(lab, server.process.pid, *load.arguments, *where, *times, hold_s=load.hold_s)
    said = measured.said
    failed = said["bad_answers"] + said["failed_requests"] + said["failed_handshakes"] + said["lost_connections"]
    if not load.hold_s and not said["requests"] and not said["bytes"]:
        raise BenchError("answered nothing")
    value, cpu_us = load.figure(measured)
    return Figure(value, cpu_us, measured.foreign, failed)
