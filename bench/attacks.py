"""The share of honest clients served during a flood of failing first flights, and the server's CPU.

    python -m bench.attacks [--quick] [--rounds N] [--only nginx,Caddy]

Honest clients open 50 connections per second with X25519MLKEM768, each for one request, beside a flood of spoofed
Initials (bench/flood.py): none, 1,400 per second and 10,000 per second from 256 networks, 10,000 per second from two.
The figure is the share of honest connections that were answered, and the 99th percentile of the time from when one was
due to its answer. All servers have one core; ours runs in tier B and in tier C (with the XDP shield).
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import flood, servers
from bench.lab import SERVER_ADDRESS, BenchError, Lab, Measured, lab, measure
from bench.servers import FILES, Server
from tests.support.certificates import make_certificate

FIRST_PORT = 4501
HONEST_PER_S = 50
SERVERS = ("velocity-edge native", "velocity-edge native, XDP", "velocity-edge portable", "nginx", "Caddy")
WARMUP_S = 0.5


@dataclass(frozen=True, slots=True)
class Flood:
    """A rate of spoofed hellos, and how many /24s they claim to come from."""

    per_s: int
    networks: int

    def __str__(self) -> str:
        return f"{self.per_s:,} hellos/s from {self.networks} networks" if self.per_s else "no flood"


FLOODS = (Flood(0, 0), Flood(1_400, 256), Flood(10_000, 256), Flood(10_000, 2))


@dataclass(frozen=True, slots=True)
class Figure:
    """Honest connections, due and answered, their p99, and the server's share of its core."""

    due: int
    answered: int
    p99_ms: float
    cpu_share: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/attacks.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=4.0, help="seconds of each measurement")
    parser.add_argument("--only", default="", help="servers, separated by semicolons: " + "; ".join(SERVERS))
    options = parser.parse_args()
    wanted = [name for name in options.only.split(";") if name] or list(SERVERS)
    directory = Path(tempfile.mkdtemp(prefix="ve-bench-", dir="/tmp"))
    try:
        flood.make(directory / "flood", max(each.per_s for each in FLOODS))
        with lab() as made:
            results = _all(made, directory, wanted, 1 if options.quick else options.rounds, options.duration)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    _print(results, wanted)
    return 0


def _all(
    made: Lab, directory: Path, names: list[str], rounds: int, duration_s: float
) -> dict[tuple[str, str], list[Figure]]:
    site = servers.make_site(directory, make_certificate(directory, "localhost", SERVER_ADDRESS))
    made.route(flood.SOURCES)
    results: dict[tuple[str, str], list[Figure]] = {}
    for index, name in enumerate(names):
        # One at a time: the shield of one would filter the packets of all.
        try:
            server = servers.start(made, site, name, FIRST_PORT + index)
        except BenchError as error:
            print(f"bench: LEFT OUT: {error}", file=sys.stderr, flush=True)
            continue
        try:
            for _ in range(rounds):
                for each in FLOODS:
                    figure = _one(made, server, each, directory / "flood", duration_s)
                    results.setdefault((str(each), name), []).append(figure)
                    print(f"bench: {each}: {name}: {_cell([figure])}", file=sys.stderr, flush=True)
        finally:
            servers.stop(server)
    return results


def _one(made: Lab, server: Server, each: Flood, datagrams: Path, duration_s: float) -> Figure:
    honest = ("handshakes", "--path", "/tiny", "--bytes", str(FILES["tiny"]), "--connections", "200")
    where = ("--address", SERVER_ADDRESS, "--port", str(server.port), "--groups", "X25519MLKEM768")
    times = ("--rate", str(HONEST_PER_S), "--warmup", str(WARMUP_S), "--duration", str(duration_s))
    with _flooded(made, server, each, datagrams, duration_s + 5):
        measured = measure(made, server.process.pid, *honest, *where, *times)
    return _figure(measured)


def _figure(measured: Measured) -> Figure:
    said = measured.said
    due = round(HONEST_PER_S * said["seconds"])
    answered = min(due, int(said["requests"]))
    p99_ms = float(said["connection_ms"]["p99"]) if answered else float("inf")
    return Figure(due, answered, p99_ms, measured.server_cpu_s / measured.wall_s)


@contextlib.contextmanager
def _flooded(made: Lab, server: Server, each: Flood, datagrams: Path, seconds: float) -> Iterator[None]:
    """The flood starts before the honest clients and lasts until they have finished."""
    if not each.per_s:
        yield
        return
    argv = (
        sys.executable,
        "-m",
        "bench.flood",
        "send",
        datagrams,
        SERVER_ADDRESS,
        server.port,
        each.per_s,
        seconds,
        each.networks,
    )
    process = subprocess.Popen(made.attacker_command(*map(str, argv)), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        if process.stdout.readline() != "sending\n":
            raise BenchError("the flood did not begin")
        yield
        if process.poll() is not None:
            raise BenchError("the flood was over before the measurement")
    finally:
        process.terminate()
        process.wait(10)


def _print(results: dict[tuple[str, str], list[Figure]], wanted: list[str]) -> None:
    names = [name for name in wanted if any(name == server for _, server in results)]
    print(f"\nUnder attack: {HONEST_PER_S} honest connections/s answered, p99 in ms, share of the server's core\n")
    print("| | " + " | ".join(names) + " |")
    print("| --- |" + " --- |" * len(names))
    for each in FLOODS:
        print(f"| {each} | " + " | ".join(_cell(results.get((str(each), name), [])) for name in names) + " |")


def _cell(figures: list[Figure]) -> str:
    if not figures:
        return "-"
    due, answered = sum(f.due for f in figures), sum(f.answered for f in figures)
    p99_ms = statistics.median(f.p99_ms for f in figures)
    cpu = statistics.median(f.cpu_share for f in figures)
    return f"{answered / due:.1%}, {p99_ms:,.1f} ms, {cpu:.0%}" if answered else f"none, {cpu:.0%}"


if __name__ == "__main__":
    sys.exit(main())
