"""`make bench`: one worker compared with stock aioquic, nginx and Caddy, in one run on this machine.

Every server does every kind of work once per round, the order alternates, and a result is the
median of the rounds with the smallest and the largest. Ratios are to nginx. Nothing here passes or fails: it prints
Markdown tables for docs/performance.md, then the results under attack, and the cost of the packet programs and the
handshake alone.

    python -m bench.run [--quick] [--rounds N] [--only nginx,Caddy] [--loads handshakes] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench import loads, servers
from bench.lab import SERVER_ADDRESS, BenchError, Lab, lab
from bench.servers import SERVERS, Server, Site
from tests.support.certificates import make_certificate

FIRST_PORT = 4401
REFERENCE = "nginx"
#: Above this share of a core, other processes disturb a figure too much: it is measured once more.
NOISY = 0.15
Results = dict[tuple[str, str], list[loads.Figure]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench/run.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one round, short, the main kinds of work: under 3 minutes"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of each measurement")
    parser.add_argument("--only", default="", help="servers, separated by commas: " + ", ".join(SERVERS))
    parser.add_argument("--loads", default="", help="kinds of work whose name contains this")
    parser.add_argument("--json", type=Path, help="write every single figure there too")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.duration = 1, 1.2
    wanted = [name for name in options.only.split(",") if name] or [name for name in SERVERS if "XDP" not in name]
    kinds = [load for load in loads.LOADS if options.loads in load.name and (load.quick or not options.quick)]
    if unknown := set(wanted) - set(SERVERS):
        parser.error(f"cannot measure {', '.join(unknown)}: there are {', '.join(SERVERS)}")

    directory = Path(tempfile.mkdtemp(prefix="ve-bench-", dir="/tmp"))
    try:
        with lab() as made:
            results = measure_all(made, directory, wanted, kinds, options.rounds, options.duration)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print_tables(results, kinds, options.rounds, options.duration, list(SERVERS))
    if options.json:
        rows = [{"load": load, "server": name, **asdict(f)} for (load, name), all_f in results.items() for f in all_f]
        options.json.write_text(json.dumps(rows, indent=1))
    print_other("bench.proxied", *(["--quick"] if options.quick else []))
    print_other("bench.attacks", *(["--quick"] if options.quick else []))
    print_other("bench.verdicts")
    print_other("bench.handshake")
    return 0


def measure_all(
    made: Lab, directory: Path, names: list[str], kinds: list[loads.Load], rounds: int, duration_s: float
) -> Results:
    """Start the servers, run all rounds of work, stop them."""
    site = servers.make_site(directory, make_certificate(directory, "localhost", SERVER_ADDRESS))
    return measure_site(made, site, names, kinds, rounds, duration_s, SERVERS)


def measure_site(
    made: Lab,
    site: Site,
    names: list[str],
    kinds: list[loads.Load],
    rounds: int,
    duration_s: float,
    table: servers.Table,
) -> Results:
    """Start the servers of *table* that are in *names*, run all rounds of work, stop them."""
    results: Results = {}
    with contextlib.ExitStack() as running:
        started: list[Server] = []
        for index, name in enumerate(names):
            if server := _start(made, site, name, FIRST_PORT + index, table):
                running.callback(servers.stop, server)
                started.append(server)
        for number in range(rounds):
            for load in kinds:
                if load.once and number:
                    continue
                for server in started if number % 2 == 0 else reversed(started):
                    if figure := _one(made, server, load, duration_s, table[server.name][1]):
                        results.setdefault((load.name, server.name), []).append(figure)
                        say(f"round {number + 1}: {load.name}: {server.name}: {_said(figure, load)}")
    return results


def _start(made: Lab, site: Site, name: str, port: int, table: servers.Table) -> Server | None:
    try:
        return servers.start(made, site, name, port, table)
    except BenchError as error:
        say(f"LEFT OUT: {error}")
        return None


def _one(made: Lab, server: Server, load: loads.Load, duration_s: float, post_quantum: bool) -> loads.Figure | None:
    try:
        figure = loads.run(made, server, load, post_quantum, duration_s)
        if figure.foreign > NOISY and not load.once:
            again = loads.run(made, server, load, post_quantum, duration_s)
            figure = min(figure, again, key=lambda measured: measured.foreign)
    except BenchError as error:
        say(f"{load.name}: {server.name}: {error}")
        return None
    return figure


def _said(figure: loads.Figure, load: loads.Load) -> str:
    text = f"{number_text(figure.value)} {load.unit}"
    if figure.failed:
        text += f", {figure.failed} failed"
    if figure.foreign > NOISY:
        text += f", others used {figure.foreign:.0%} of a core"
    return text


def print_tables(results: Results, kinds: list[loads.Load], rounds: int, duration_s: float, order: list[str]) -> None:
    """Two Markdown tables: the figures with ratios to the reference, and CPU per unit of work."""
    names = [name for name in order if any(server == name for _, server in results)]
    foreign = [figure.foreign for figures in results.values() for figure in figures]
    print(
        f"\n{_cpu_model()}, {os.cpu_count()} cores, Linux {platform.release()}; {rounds} rounds of {duration_s} s; ",
        end="",
    )
    print(f"others used {statistics.median(foreign) if foreign else 0:.0%} of a core (median)\n")
    head = "| | " + " | ".join(names) + " |"
    rule = "| --- |" + " --- |" * len(names)
    print(f"{head}\n{rule}")
    for load in kinds:
        reference = _median(results.get((load.name, REFERENCE)))
        cells = [_cell(results.get((load.name, name)), reference) for name in names]
        print(f"| {load.name}, {load.unit} | " + " | ".join(cells) + " |")
    print(f"\nServer CPU, microseconds per handshake, request or MiB:\n\n{head}\n{rule}")
    for load in kinds:
        figures = [results.get((load.name, name)) for name in names]
        if any(f and f[0].cpu_us for f in figures):
            reference_us = _median_cpu(results.get((load.name, REFERENCE)))
            cells = [_cpu_cell(f, reference_us) for f in figures]
            print(f"| {load.name} | " + " | ".join(cells) + " |")


def _median(figures: list[loads.Figure] | None) -> float | None:
    return statistics.median(figure.value for figure in figures) if figures else None


def _median_cpu(figures: list[loads.Figure] | None) -> float | None:
    return statistics.median(figure.cpu_us for figure in figures) if figures else None


def _cpu_cell(figures: list[loads.Figure] | None, reference_us: float | None) -> str:
    if not figures:
        return "-"
    median_us = statistics.median(figure.cpu_us for figure in figures)
    return number_text(median_us) + (f", {median_us / reference_us:.2f}x" if reference_us else "")


def _cell(figures: list[loads.Figure] | None, reference: float | None) -> str:
    if not figures:
        return "-"
    values = sorted(figure.value for figure in figures)
    median = statistics.median(values)
    spread = f" ({number_text(values[0])}-{number_text(values[-1])})" if len(values) > 1 else ""
    failed = sum(figure.failed for figure in figures)
    return (
        number_text(median)
        + spread
        + (f", {median / reference:.2f}x" if reference else "")
        + (f", {failed} failed" if failed else "")
    )


def number_text(value: float) -> str:
    """Three significant digits, with thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_other(module: str, *arguments: str) -> None:
    """Run another benchmark of this folder, and print its output."""
    print(flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=False)


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def say(text: str) -> None:
    """Progress, beside the tables."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
