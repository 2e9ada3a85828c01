"""The soak: a node under a small load is changed repeatedly, and its resources must not grow.

    python -m tests.hitless.soak --seconds 600

Three parts. First reloads and key rotations with the same workers: their memory is judged here. Then
rolling restarts with reloads between them, last upgrades. Between changes these are measured:
memory and descriptors of the supervisor and of each worker, processes, entries of the BPF maps, pins, and the files
that the node keeps. It exits with 1 when anything grew beyond its bound, or a client lost anything.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from bpf import pins
from tests.hitless.flat import Bound, Trend, table, trend
from tests.hitless.load import BIG_BYTES, Load, build
from tests.hitless.network import network
from tests.hitless.node import VelocityEdge
from tests.hitless.outcome import Outcome, judge, report, verdict
from tests.hitless.plan import Done, Hands
from tests.hitless.subjects import make_site
from velocity_edge.paths import instance_name

#: A few of each kind: growth per connection, request or change is seen here, too.
WORK = "download=1,upload=1,short=2,fresh=2,split=1,idle=10,rebind=2,migrate=2,mux=5"
#: Ends of the first and the second part, as shares of the run.
_RELOADS, _RESTARTS = 0.45, 0.85
_MIB = 2**20

BOUNDS = {
    # The allocator's noise: a leak of a kilobyte per change would be a tenth of it, one per request far above.
    ("supervisor memory", "MiB"): Bound(2.0),
    ("supervisor descriptors", "open"): Bound(1.0),
    ("worker memory, the same workers", "MiB"): Bound(2.0),
    ("worker descriptors, most of one", "open"): Bound(1.0),
    ("processes", "alive"): Bound(0.5),
    # Worker ids that packets may still carry stay for a while after their worker.
    ("worker ids in the kernel's table", "entries"): Bound(30.0, 40.0),
    # An LRU map: it fills, and then evicts the oldest.
    ("handshakes pinned", "entries"): Bound(65536.0, 65536.0),
    ("pins in bpffs", "files"): Bound(0.5),
    ("files in runtime and state directories", "files"): Bound(1.0),
    # The key table is bounded (16 epochs). Not the audit log: it grows by each command, until one old file is kept.
    ("size of these files without the audit log", "KiB"): Bound(8.0),
}


@dataclass(slots=True)
class Meter:
    """Samples of one node."""

    node: VelocityEdge
    began_s: float = field(default_factory=time.monotonic)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    #: pid -> (seconds, MiB), for the trend of a worker that keeps running.
    memory: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def look(self) -> None:
        """Take a sample. Only between changes: a rollout has more processes, by design."""
        at_s = time.monotonic() - self.began_s
        status = self.node.status()
        pids = [worker["pid"] for worker in status["workers"]]
        for pid in pids:
            self.memory[pid].append((at_s, _rss_mib(pid)))
        directories = [self.node.directory / name for name in ("run", "state")]
        files = [path for directory in directories for path in directory.rglob("*") if path.is_file()]
        bpffs = pins.BPFFS / "velocity-edge" / instance_name(self.node.directory / "run")
        dispatch = self.node.dispatch()
        for name, value in (
            ("supervisor memory", _rss_mib(status["pid"])),
            ("supervisor descriptors", _descriptors(status["pid"])),
            ("worker descriptors, most of one", max(map(_descriptors, pids))),
            ("processes", _processes(self.node)),
            ("worker ids in the kernel's table", len(dispatch["workers"])),
            ("handshakes pinned", dispatch["pins"]),
            ("pins in bpffs", sum(path.is_file() for path in bpffs.rglob("*"))),
            ("files in runtime and state directories", len(files)),
            (
                "size of these files without the audit log",
                sum(path.stat().st_size for path in files if not path.name.startswith("audit.log")) / 1024,
            ),
        ):
            self.series[name].append((at_s, float(value)))

    def trends(self) -> list[Trend]:
        """Judge."""
        found = []
        for (name, unit), bound in BOUNDS.items():
            if name in self.series:
                found.append(trend(name, unit, self.series[name], bound))
            else:
                # Those that lived longest: the first part's.
                longest = sorted(self.memory.values(), key=lambda samples: samples[-1][0] - samples[0][0])[-2:]
                found += [trend(name, unit, samples, bound) for samples in longest]
        return found


def _rss_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MIB


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _processes(node: VelocityEdge) -> int:
    shown = subprocess.run(["ip", "netns", "pids", node.net.server], capture_output=True, text=True, check=True)
    return len(shown.stdout.split())


def _play(node: VelocityEdge, meter: Meter, seconds: float, dice: random.Random) -> list[Done]:
    """Make one change after the other until the time is over, and measure between them."""
    hands = Hands(node.deeds, dice)
    end_s = meter.began_s + seconds
    turn = 0
    while (now_s := time.monotonic()) < end_s - 5:
        share = (now_s - meter.began_s) / seconds
        if share < _RELOADS:
            cycle: tuple[str, ...] = (*["reload"] * 7, "rotate")
        elif share < _RESTARTS:
            cycle = ("restart", "reload", "rotate", "reload")
        else:
            cycle = ("upgrade",)
        hands.do(cycle[turn % len(cycle)])
        turn += 1
        # Workers report once per second, and drained ones have exited by then.
        time.sleep(2.0 + dice.random())
        meter.look()
    return hands.done


def _kinds(done: list[Done]) -> dict[str, int]:
    return dict(Counter(one.kind for one in done))


def main() -> int:
    """Run one soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    dice = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="ve-soak-", dir="/tmp") as name, network() as net:
        directory = Path(name)
        directory.chmod(0o755)
        make_site(directory, BIG_BYTES)
        build(directory, "client")
        node = VelocityEdge(net, directory, dice)
        try:
            node.start()
            load = Load(net, directory, arguments.seed, arguments.seconds + 60, work=WORK, curls=1)
            load.start()
            meter = Meter(node)
            done = _play(node, meter, arguments.seconds, dice)
            facts = load.stop()
        finally:
            node.stop()
    outcome = Outcome(node.name, node.about, arguments.seed, arguments.seconds, {}, _kinds(done), done, [])
    judge(outcome, facts)
    trends = meter.trends()
    print(report(outcome))
    print()
    print(table(trends))
    if node.refused_rotations:
        print(
            f"\n{node.refused_rotations} rotations were refused: connections still had ids of the epoch that would go."
        )
    found = verdict(outcome) + [
        f"{each.name} grows by {each.growth:.3g} {each.unit}" for each in trends if not each.flat
    ]
    for one in done:
        if one.note:
            print(f"  note: {one.kind}: {one.note}", file=sys.stderr)
    for line in outcome.lost_at[:40]:
        print("  lost:", line, file=sys.stderr)
    print("\nFlat, and nothing lost." if not found else "\nNOT FLAT: " + "; ".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
