"""The cost of each verdict of the shield: ns per packet over an empty program, by BPF_PROG_TEST_RUN. Needs root.

    .venv/bin/python bench/verdicts.py [--json] [--repeat N] [--runs N]

The median of several runs, each of `--repeat` executions on one warm CPU. The goals are in
docs/life-of-a-packet.md; a number above its goal is marked. sk_reuseport programs cannot be run this way: the kernel
measures them while datagrams go over loopback, the empty one too.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bpf import BpfError, abi, kernel, loader, pins
from bpf.linux import SO_ATTACH_REUSEPORT_EBPF, AttachType, ProgramType
from bpf.measure import ProgramInfo, measure_run_time, program_info, run_on_frame
from supervisor.steering.kernel import KernelSteering
from tests.support.headers import extension
from tests.support.packets import HANDSHAKE, INITIAL, ethernet, ipv4, ipv6, long, random_dcid, short, udp
from tests.support.shield import CONFIG, GONE, Shield
from velocity_edge.wire.cid_codec import CidCodec
from velocity_edge.wire.messages import Listener

_HOUR_NS = 3600 * 10**9


@dataclass(frozen=True)
class Row:
    """One case. Times in ns: over the empty program, and the spread of the runs."""

    case: str
    verdict: str
    over_empty_ns: float
    spread_ns: float
    goal_ns: float | None


def measure(program: int, frame: bytes, repeat: int, runs: int) -> list[int]:
    run_on_frame(program, frame, repeat // 10)
    return [run_on_frame(program, frame, repeat)[1] for _ in range(runs)]


def empty_program() -> int:
    """`return XDP_PASS`: the cost of a run without any code."""
    code = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    return kernel.load_program("empty", code, ProgramType.XDP, AttachType.XDP)


def cases(shield: Shield) -> list[tuple[str, float | None, bytes, dict[str, int]]]:
    """Name, goal over the empty program in ns, frame, settings."""
    ours, initial = shield.cid(), long(INITIAL, random_dcid())
    limited = {"interval_ns": 1, "window_ns": _HOUR_NS}
    spent = {"interval_ns": _HOUR_NS, "window_ns": 0}
    return [
        ("ARP", 6, ethernet(bytes(46), protocol=0x0806), {}),
        ("TCP to port 443", 6, ethernet(ipv4(bytes(60), protocol=6)), {}),
        ("UDP to another port", 6, ethernet(ipv4(udp(short(ours), destination=53))), {}),
        ("flood: malformed", 15, ethernet(ipv4(udp(short(ours), length=500))), {}),
        ("flood: from port 53", 15, ethernet(ipv4(udp(short(ours), source=53))), {}),
        ("flood: Initial under 1200", 15, ethernet(ipv4(udp(long(INITIAL, random_dcid(), length=600)))), {}),
        ("flood: short, made up id", 15, ethernet(ipv4(udp(short(random_dcid(20))))), {}),
        ("flood: first fragment", 15, ethernet(ipv4(udp(initial), fragment=0x2000)), {}),
        ("flood: four extension headers", 15, ethernet(ipv6(options(4) + udp(initial), next_header=60)), {}),
        ("short, worker gone", 30, ethernet(ipv4(udp(short(shield.cid(GONE))))), {}),
        ("short, known worker", 30, ethernet(ipv4(udp(short(ours)))), {}),
        ("short, known worker, IPv6", 30, ethernet(ipv6(udp(short(ours)))), {}),
        ("Handshake, known worker", 30, ethernet(ipv4(udp(long(HANDSHAKE, ours, length=300)))), {}),
        ("short, deny list on", None, ethernet(ipv4(udp(short(ours)))), {"deny": 1}),
        ("Initial, no limit", None, ethernet(ipv4(udp(initial))), {}),
        ("Initial, within its limit", 80, ethernet(ipv4(udp(initial))), limited),
        ("Initial, within its limit, IPv6", 80, ethernet(ipv6(udp(initial))), limited),
        ("Initial, over its limit", 80, ethernet(ipv4(udp(initial))), spent),
        ("Initial, over, three headers", 80, ethernet(ipv6(options(3) + udp(initial), next_header=60)), spent),
        ("Initial with our id, over for it", 80, ethernet(ipv4(udp(long(INITIAL, ours)))), limited),
        ("... over for its prefix", 80, ethernet(ipv4(udp(long(INITIAL, shield.cid())))), spent),
    ]


def options(headers: int) -> bytes:
    """Destination options, the last of them before UDP."""
    return extension(60) * (headers - 1) + extension(17)


def helper_alone(sockets_fd: int) -> int:
    """`bpf_sk_select_reuseport` of slot 0, and nothing else: the minimum for every program."""
    code = struct.pack("<BBhi", 0x62, 10, -4, 0)  # *(u32 *)(fp - 4) = 0
    code += struct.pack("<BBhiBBhi", 0x18, 0x12, 0, sockets_fd, 0, 0, 0, 0)  # r2 = map
    code += struct.pack("<BBhi", 0xBF, 0xA3, 0, 0) + struct.pack("<BBhi", 0x07, 3, 0, -4)  # r3 = fp - 4
    code += struct.pack("<BBhi", 0xB7, 4, 0, 0) + struct.pack("<BBhi", 0x85, 0, 0, 82)  # r4 = 0, call
    code += struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # return SK_PASS
    return kernel.load_program("helper", code, ProgramType.SK_REUSEPORT, AttachType.SK_REUSEPORT_SELECT)


def selection(cache_dir: Path, datagrams: int, runs: int) -> list[Row]:
    """The same for socket selection, by the kernel's own clock, on a reuseport group on loopback."""
    members = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port = 0
    for member in members:
        member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        member.bind(("127.0.0.1", port))
        port = member.getsockname()[1]
    client.connect(("127.0.0.1", port))
    steering = KernelSteering([Listener("127.0.0.1", port)], [members], [CONFIG], cache_dir, None)
    steering.lend(1, 0, 0)
    steering.accept([1])
    codec = CidCodec([CONFIG])
    code = struct.pack("<BBhi", 0xB7, 0, 0, 1) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    empty = kernel.load_program("empty", code, ProgramType.SK_REUSEPORT, AttachType.SK_REUSEPORT_SELECT)
    ours = steering.selection_program(0)
    alone = helper_alone(steering._socket_maps[0])
    statistics_fd = measure_run_time()

    def run_ns(program: int, make: Callable[[], bytes]) -> float:
        members[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, program)
        before = program_info(program)
        for _ in range(datagrams):
            client.send(make())
        after = program_info(program)
        return (after.run_time_ns - before.run_time_ns) / (after.run_count - before.run_count)

    known, initial = short(codec.issue(1, 1)), long(INITIAL, random_dcid())
    ways: list[tuple[str, int, str, Callable[[], bytes], float | None]] = [
        ("the kernel's helper alone", alone, "", lambda: known, None),
        ("short, known worker", ours, "selected_known_worker", lambda: known, 60),
        ("Initial, pinned", ours, "selected_pinned", lambda: initial, None),
        ("Initial, new", ours, "selected_new", lambda: initial[:6] + random_dcid() + initial[14:], None),
    ]
    found = []
    for name, program, verdict, make, goal_ns in ways:
        # The clock of a shared machine drifts: each run is compared with the empty program at its side.
        times = [run_ns(program, make) - run_ns(empty, make) for _ in range(runs)]
        found.append(Row(name, verdict, statistics.median(times), max(times) - min(times), goal_ns))
    for fd in (statistics_fd, empty, alone):
        os.close(fd)
    steering.detach()
    for each in (*members, client):
        each.close()
    return found


def rows(shield: Shield, empty: int, repeat: int, runs: int) -> tuple[float, list[Row]]:
    frame = ethernet(ipv4(udp(short(shield.cid()))))
    base = statistics.median(measure(empty, frame, repeat, runs))
    found = []
    for name, goal_ns, frame, settings in cases(shield):
        shield.reset()
        shield.settings.deny = settings.get("deny", 0)
        shield.settings.rate[abi.LIMIT_INITIAL].window_ns = settings.get("window_ns", 0)
        shield.settings.rate[abi.LIMIT_INITIAL].interval_ns = settings.get("interval_ns", 0)
        before = shield.counters()
        times = measure(shield.program, frame, repeat, runs)
        after = shield.counters()
        verdict = max(
            after, key=lambda name: after[name] - before[name]
        )  # of most packets: a limit lets the first ones pass
        cost = statistics.median(times) - base
        found.append(Row(name, verdict, cost, max(times) - min(times), goal_ns))
    return base, found


def verified(cache_dir: Path) -> dict[str, ProgramInfo]:
    """Load each program once and read its size and verifier steps from the kernel."""
    specs = (*pins.specs(), pins.sockets_spec(), pins.cpus_spec())
    maps = {spec.name: kernel.create_map(spec) for spec in specs}
    infos = {}
    for name in loader.PROGRAMS:
        program = loader.load(name, maps, cache_dir)
        infos[name] = program_info(program)
        os.close(program)
    for fd in maps.values():
        os.close(fd)
    return infos


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repeat", type=int, default=1_000_000, help="executions per run")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ve-bench-") as directory:
        try:
            shield = Shield(Path(directory))
        except BpfError as error:
            sys.exit(str(error))
        empty = empty_program()
        base, found = rows(shield, empty, arguments.repeat, arguments.runs)
        chosen = selection(Path(directory), arguments.repeat // 50, arguments.runs)
        infos = verified(Path(directory))
        os.close(empty)
        shield.close()
    if arguments.json:
        programs = {name: asdict(info) for name, info in infos.items()}
        sections = {"xdp": found, "select": chosen}
        tables = {stage: [asdict(row) for row in table] for stage, table in sections.items()}
        print(json.dumps({"empty_ns": base, **tables, "programs": programs}, indent=2))
        return
    print(f"an empty program: {base:.0f} ns per run\n")
    print(f"{'case':34}{'verdict':26}{'ns over empty':>14}{'spread':>8}{'goal':>6}")
    for row in (*found, *chosen):
        goal = "" if row.goal_ns is None else f"{row.goal_ns:.0f}"
        late = " above" if row.goal_ns is not None and row.over_empty_ns > row.goal_ns else ""
        print(f"{row.case:34}{row.verdict:26}{row.over_empty_ns:14.0f}{row.spread_ns:8.0f}{goal:>6}{late}")
    print()
    for name, info in infos.items():
        print(f"{name}: {info.instructions} instructions, {info.verified_instructions} walked by the verifier")


if __name__ == "__main__":
    main()
