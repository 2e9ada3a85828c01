"""The hitless experiment: third-party clients load a server while it is reloaded, restarted, upgraded and killed.

One run has a subject (node.py, subjects.py), a load (load.py) and a seeded plan (plan.py). It prints what was lost
(outcome.py), where each packet went (ledger.py), and exits with 1 when velocity-edge lost anything that it must not.

    python -m tests.hitless.experiment velocity-edge --seconds 60 --seed 7
    python -m tests.hitless.experiment velocity-edge --full
    python -m tests.hitless.experiment velocity-edge --naive        must fail
    python -m tests.hitless.experiment nginx --full

Server and client live in two network namespaces joined by a veth pair. Every loop is bounded by `--seconds`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.hitless.ledger import Counts
from tests.hitless.load import BIG_BYTES, PROXIED, WEBSOCKETS, WORK, Load, build, upstream
from tests.hitless.network import Net, network
from tests.hitless.node import VelocityEdge
from tests.hitless.outcome import Outcome, judge, report, verdict
from tests.hitless.plan import Hands
from tests.hitless.subjects import Caddy, Nginx, Subject, make_certificate, make_site
from tests.support.waiting import poll

SUBJECTS = ("velocity-edge", "nginx", "caddy")
SHORT = "reload=4,restart=1,upgrade=1,worker-kill=1,supervisor-kill=1"
FULL = "reload=20,restart=20,upgrade=5,worker-kill=3,supervisor-kill=3"
FULL_SECONDS, FULL_CONTROL_SECONDS = 840.0, 400.0


@dataclass(slots=True)
class Watch:
    """Samples the node once per second, and the machine's idle time."""

    node: VelocityEdge | None
    most_connections: int = 0
    #: Datagrams that one worker received in a second, at most.
    most_per_s: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _cpu: tuple[int, int] = (0, 0)

    def start(self) -> None:
        """Begin."""
        self._cpu = _cpu_times()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> float:
        """End; return the share of the CPU time that was idle."""
        self._over.set()
        if self._thread:
            self._thread.join()
        idle, total = (after - before for after, before in zip(_cpu_times(), self._cpu, strict=True))
        return idle / max(1, total)

    def _run(self) -> None:
        last: tuple[float, int] | None = None
        while self.node is not None and not self._over.wait(1.0):
            status = self.node.status()
            if not status:
                last = None
                continue
            self.most_connections = max(self.most_connections, sum(w["connections"] for w in status["workers"]))
            # All workers together, which one worker cannot exceed.
            now = (time.monotonic(), status["counters"]["datagrams_received"])
            if last is not None:
                self.most_per_s = max(self.most_per_s, int((now[1] - last[1]) / (now[0] - last[0])))
            last = now


def _cpu_times() -> tuple[int, int]:
    """Return (idle, total) of all CPUs, in ticks."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def run(
    subject: Subject, net: Net, directory: Path, *, seconds: float, seed: int, plan: dict[str, int], calm_s: float
) -> Outcome:
    """Let the load run and disturb the subject."""
    node = subject if isinstance(subject, VelocityEdge) else None
    work = WORK + PROXIED + (WEBSOCKETS if subject.websockets else "")
    load, hands, watch = (
        Load(net, directory, seed, seconds, work),
        Hands(subject.deeds, random.Random(seed)),
        Watch(node),
    )
    load.start()
    watch.start()
    began_s = time.time()
    # No change in the first and the last seconds: connections open, and late losses are seen.
    time.sleep(calm_s)
    hands.run(plan, seconds - 2 * calm_s)
    time.sleep(min(calm_s, 10.0))
    ended_s = time.time()
    idle_share = watch.stop()
    facts = load.stop()
    sent, dropped = net.sent_by_client()
    kills = node.kills if node is not None else []
    outcome = Outcome(subject.name, subject.about, seed, ended_s - began_s, {}, plan, hands.done, kills)
    outcome.idle_share, outcome.most_connections = idle_share, watch.most_connections
    judge(outcome, facts)
    # To find the reason of a loss (--keep).
    (directory / "facts.log").write_text(
        json.dumps({"deeds": hands.done, "kills": kills, **asdict(facts)}, default=asdict)
    )
    if node is not None:
        _at_rest(node)
        status = node.status()
        sent, dropped = net.sent_by_client()
        packets = status["packets"]
        udp = net.udp_of_server()
        trains, waiting = node.waiting()
        outcome.counts = Counts(
            *(sent, dropped, packets["xdp"], packets["select"], udp, status["counters"]),
            *(trains, waiting, len(kills), watch.most_per_s),
        )
    outcome.client_sent, outcome.udp = sent, net.udp_of_server()
    return outcome


def _at_rest(node: VelocityEdge) -> None:
    """Wait until the node is idle and has reported it."""

    def still() -> Any:
        before = node.status()
        time.sleep(2.5)  # workers report once per second
        after = node.status()
        return before and before["counters"]["datagrams_received"] == after["counters"]["datagrams_received"]

    poll(still, what="the node to rest", timeout_s=60)


def main() -> int:
    """Run one experiment from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument(
        "--seconds", type=float, help="the longest that a run may take (60; with --full 840, controls 400)"
    )
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--plan", help=f"kind=times,... ({SHORT})")
    parser.add_argument("--full", action="store_true", help=f"the whole thing: {FULL}")
    parser.add_argument("--naive", action="store_true", help="velocity-edge with a drain that does not wait: must fail")
    parser.add_argument("--keep", type=Path, help="copy logs, and what the clients said, to this folder")
    arguments = parser.parse_args()
    ours = arguments.subject == "velocity-edge"
    print(f"seed {arguments.seed}", flush=True)
    text = arguments.plan or (FULL if arguments.full else SHORT)
    plan = {kind: int(times) for kind, _, times in (item.partition("=") for item in text.split(","))}
    if not ours:
        plan = {"reload": plan.get("reload", 0)}
    full_s = FULL_SECONDS if ours else FULL_CONTROL_SECONDS
    seconds = arguments.seconds or (full_s if arguments.full else 60.0)
    with tempfile.TemporaryDirectory(prefix="ve-hitless-", dir="/tmp") as name, network() as net:
        directory = Path(name)
        directory.chmod(0o755)
        make_site(directory, BIG_BYTES)
        make_certificate(directory)
        build(directory, "client")
        build(directory, "upstream")
        makers: dict[str, Callable[[], Subject]] = {
            "velocity-edge": lambda: VelocityEdge(net, directory, random.Random(arguments.seed), arguments.naive),
            "nginx": lambda: Nginx(net, directory),
            "caddy": lambda: Caddy(net, directory),
        }
        subject = makers[arguments.subject]()
        try:
            with upstream(net, directory):
                subject.start()
                outcome = run(
                    subject,
                    net,
                    directory,
                    seconds=seconds,
                    seed=arguments.seed,
                    plan=plan,
                    calm_s=20.0 if arguments.full else 8.0,
                )
        finally:
            subject.stop()
            if arguments.keep:
                for log in directory.glob("*.log"):
                    shutil.copy(log, arguments.keep)
    print(report(outcome))
    for line in outcome.lost_at[:40]:
        print("  lost:", line, file=sys.stderr)
    for done in outcome.done:
        if done.note:
            print(f"  note: {done.kind}: {done.note}", file=sys.stderr)
    if not ours:
        return 0
    found = verdict(outcome)
    print("\nNothing was lost that should not be." if not found else "\nLOST: " + "; ".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
