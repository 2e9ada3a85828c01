"""Where each packet went: from the client's interface to a worker's verdict, stage by stage, and whether it adds up.

Pure: numbers in, lines out. Between the shield and the workers the kernel merges packets to trains (GRO), so stages
are compared in two units: packets (interface, shield, workers) and trains (socket selection, the kernel's UDP counts,
what workers read from sockets). A killed worker loses the count of what it had read since its last report (once per
second): only then may "by killed workers" be above zero, and never more than `kills * most_per_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: XDP verdicts of packets that are not for our port.
_NOT_OURS = "passed_not_ours"


@dataclass(frozen=True, slots=True)
class Counts:
    """All counters, from the start of the node until it was idle."""

    #: tc: packets that left the client's queue; what the queue or the interface dropped.
    client_sent: int
    client_dropped: int
    xdp: Mapping[str, int]
    select: Mapping[str, int]
    #: /proc/net/snmp of the server's namespace.
    udp: Mapping[str, int]
    #: counters.COUNTERS of all workers, past and present.
    workers: Mapping[str, int]
    #: In the sockets of slots without a worker: packets for a worker that has exited wait there for the next one.
    waiting_trains: int = 0
    waiting_packets: int = 0
    kills: int = 0
    #: The most datagrams that one worker was seen to receive in a second.
    most_per_s: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """Two sums that must be equal, except for the lost counts of killed workers."""

    what: str
    left: int
    right: int
    #: right may be this much below left.
    slack: int = 0

    @property
    def missing(self) -> int:
        """What is on the left and not on the right."""
        return self.left - self.right

    @property
    def holds(self) -> bool:
        """Whether it adds up."""
        return 0 <= self.missing <= self.slack


def lines(c: Counts) -> list[Line]:
    """Return each identity."""
    ours = {name: n for name, n in c.xdp.items() if name != _NOT_OURS}
    passed = _sum(ours, "passed_")
    selected, refused = _sum(c.select, "selected_"), _sum(c.select, "dropped_")
    full = c.udp["RcvbufErrors"] + c.udp.get("MemErrors", 0)
    slack = c.kills * c.most_per_s
    verdicts = _sum(c.workers, "verdict_")
    handed_over = c.workers["verdict_handed_over"]
    return [
        Line("packets: client's interface = shield", c.client_sent, sum(c.xdp.values())),
        Line("packets: shield, ours = passed + dropped", sum(ours.values()), passed + _sum(ours, "dropped_")),
        # A train that is not selected or that finds the socket full has an unknown number of packets: then this fails.
        Line(
            "packets: passed = received by workers + waiting (+ by killed ones)",
            passed,
            c.workers["datagrams_received"] + c.waiting_packets,
            slack,
        ),
        Line(
            "trains: selected = taken from sockets + waiting + socket full",
            selected,
            c.udp["InDatagrams"] + c.waiting_trains + full,
        ),
        Line("trains: not selected = kernel's NoPorts", refused, c.udp["NoPorts"]),
        Line(
            "trains: taken from sockets = taken by workers (+ by killed ones)",
            c.udp["InDatagrams"],
            c.workers["receive_calls"],
            slack,
        ),
        Line(
            "packets: received + injected = worker verdicts",
            c.workers["datagrams_received"] + c.workers["datagrams_injected"],
            verdicts,
        ),
        Line(
            "packets: handed over = injected (+ link full, or to killed ones)",
            handed_over - c.workers["handover_full"],
            c.workers["datagrams_injected"],
            slack,
        ),
    ]


def problems(c: Counts) -> list[str]:
    """Return what does not add up."""
    return [
        f"packets: {line.what}: {line.left} and {line.right}, {line.missing} missing (at most {line.slack} could be)"
        for line in lines(c)
        if not line.holds
    ]


def table(c: Counts) -> str:
    """Markdown: the verdicts of each stage, and the identities."""
    rows = ["| stage | verdict | packets |", "| --- | --- | ---: |"]
    rows += [f"| client's interface | sent | {c.client_sent:,} |"]
    if c.client_dropped:
        rows += [f"| client's interface | dropped before the wire | {c.client_dropped:,} |"]
    workers = {name: n for name, n in c.workers.items() if name.startswith("verdict_")}
    for stage, verdicts in (("shield", c.xdp), ("socket selection (trains)", c.select), ("workers", workers)):
        rows += [f"| {stage} | {name.removeprefix('verdict_')} | {n:,} |" for name, n in verdicts.items() if n]
    if c.waiting_packets:
        rows += [f"| sockets of empty slots | waiting | {c.waiting_packets:,} |"]
    rows += ["", "| sum | left | right | missing | |", "| --- | ---: | ---: | ---: | --- |"]
    rows += [
        f"| {line.what} | {line.left:,} | {line.right:,} | {line.missing:,} | "
        + ("exact" if line.missing == 0 else f"killed workers: at most {line.slack:,}" if line.holds else "**wrong**")
        + " |"
        for line in lines(c)
    ]
    return "\n".join(rows)


def _sum(counts: Mapping[str, int], prefix: str) -> int:
    return sum(n for name, n in counts.items() if name.startswith(prefix))
