"""The judgement: what was lost, what of it belonged to killed workers, and the report in Markdown.

Pure. A loss belongs to a killed worker when the kill happened between the last time when the connection was known to
work and the time when the loss was noticed. quic-go looks for reset tokens only on the socket on which a connection
began: one that had migrated does not notice its reset and waits for its time-out. Those are counted separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from tests.hitless.ledger import Counts, problems
from tests.hitless.ledger import table as packet_table
from tests.hitless.load import BIG_BYTES, CURL_UPLOAD_BYTES, SMALL_BYTES, Facts
from tests.hitless.node import Kill
from tests.hitless.plan import Done

_CURL_TIMED_OUT = 28
#: A time counts as disturbed from the beginning of a change until this long after its end.
_AFTER_S = 1.0
_COLUMNS = (
    "connections lost",
    "handshakes lost",
    "requests failed",
    "reset",
    "timed out",
    "moved",
    "sent again",
    "migrations",
    "handshakes",
    "requests",
)


@dataclass(slots=True)
class Row:
    """One kind of work."""

    connections_lost: int = 0
    handshakes_lost: int = 0
    requests_failed: int = 0
    #: Of killed workers: ended by a stateless reset, or without one.
    reset: int = 0
    timed_out: int = 0
    moved: int = 0
    sent_again: int = 0
    migrations: int = 0
    handshakes: int = 0
    requests: int = 0

    @property
    def lost(self) -> int:
        """What must be zero."""
        return self.connections_lost + self.handshakes_lost + self.requests_failed

    def values(self) -> list[int]:
        """In the order of the columns."""
        return [getattr(self, each.name) for each in fields(self)]


@dataclass(slots=True)
class Outcome:
    """A run."""

    subject: str
    about: str
    seed: int
    seconds: float
    rows: dict[str, Row]
    planned: dict[str, int]
    done: Sequence[Done]
    kills: Sequence[Kill]
    #: In ms.
    calm: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    connects: list[float] = field(default_factory=list)
    #: Of `timed_out`: connections that had migrated away from where quic-go looks for resets; and those whose handshake
    #: the kill interrupted: they never got an answer. The client may have no reset token yet, and as long
    #: as the handshake is not confirmed it sends Handshake packets, which only the killed worker could answer.
    migrated: int = 0
    cut_handshakes: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    lost_at: list[str] = field(default_factory=list)
    counts: Counts | None = None
    udp: dict[str, int] = field(default_factory=dict)
    client_sent: int = 0
    #: Of all CPUs; None: not measured.
    idle_share: float | None = None
    most_connections: int = 0

    @property
    def total(self) -> Row:
        """The sum of all rows."""
        return Row(*(sum(column) for column in zip(*(row.values() for row in self.rows.values()), strict=True)))


def judge(outcome: Outcome, facts: Facts) -> None:
    """Fill *outcome* from the output of the clients."""
    rows, began_s = outcome.rows, min(event["at_s"] for event in facts.events)
    for kind, said in facts.summary.items():
        rows[kind] = Row(
            said["connections_lost"],
            said["handshakes_failed"],
            said["requests_failed"],
            0,
            0,
            said["connections_moved"],
            said["retried"],
            said["migrations"],
            said["handshakes"],
            said["requests"],
        )
    for event in facts.events:
        if "loss" in event:
            _loss(outcome, event, began_s)
        elif "reset" in event:
            if _killed(outcome.kills, event["began_s"], event["at_s"]):
                rows[event["reset"]].reset += 1
            else:
                rows[event["reset"]].connections_lost += 1
                _note(outcome, "reset", event["reset"], event["began_s"], event["at_s"], began_s)
        elif "back" in event:
            outcome.back.append(event["ms"])
        elif "connect" in event:
            outcome.connects.append(event["ms"])
        elif event["sample"] != "split":  # late on purpose
            (outcome.disturbed if _near(outcome.done, event["at_s"]) else outcome.calm).append(event["ms"])
    _judge_curl(outcome, facts.curl, began_s)
    _judge_loadgen(outcome, facts.loadgen, began_s)


_FIELD = {"connection": "connections_lost", "handshake": "handshakes_lost", "request": "requests_failed"}


def _loss(outcome: Outcome, event: dict[str, Any], began_s: float) -> None:
    row, name = outcome.rows[event["kind"]], _FIELD[event["loss"]]
    if _killed(outcome.kills, event["began_s"], event["at_s"]):
        setattr(row, name, getattr(row, name) - 1)
        if event["alone"]:
            row.timed_out += 1
            outcome.migrated += event["migrated"]
            outcome.cut_handshakes += event["unanswered"] and not event["migrated"]
        return
    _note(outcome, f"{event['loss']}: {event['error']}", event["kind"], event["began_s"], event["at_s"], began_s)


def _judge_curl(outcome: Outcome, transfers: Iterable[dict[str, Any]], began_s: float) -> None:
    for one in transfers:
        row = outcome.rows.setdefault(f"curl {one['kind']}", Row())
        want = {"small": SMALL_BYTES, "download": BIG_BYTES}.get(one["kind"])
        whole = (
            one["exit_code"] == 0
            and one["status"] == 200
            and (one["up"] == CURL_UPLOAD_BYTES if want is None else one["down"] == want)
        )
        if whole:
            row.handshakes += 1
            row.requests += 1
        elif _killed(outcome.kills, one["began_s"], one["at_s"]):
            row.reset += one["exit_code"] != _CURL_TIMED_OUT
            row.timed_out += one["exit_code"] == _CURL_TIMED_OUT
            outcome.cut_handshakes += one["exit_code"] == _CURL_TIMED_OUT and not one["down"] and not one["up"]
        else:
            row.requests_failed += 1
            what = f"curl: exit {one['exit_code']}, status {one['status']}, {one['down']} down, {one['up']} up"
            _note(outcome, f"{what}: {one['error']}", f"curl {one['kind']}", one["began_s"], one["at_s"], began_s)


def _judge_loadgen(outcome: Outcome, slices: Iterable[dict[str, Any]], began_s: float) -> None:
    row = Row()
    for one in slices:
        if "error" in one:
            _note(outcome, f"our load generator: {one['error']}", "loadgen", one["began_s"], one["at_s"], began_s)
            row.requests_failed += 1
            continue
        row.handshakes += one["handshakes"]
        row.requests += one["requests"]
        lost = {
            "handshakes_lost": one["failed_handshakes"],
            "connections_lost": one["lost_connections"],
            "requests_failed": one["failed_requests"] + one["bad_answers"],
        }
        if _killed(outcome.kills, one["began_s"], one["at_s"]):
            row.reset += lost["connections_lost"]
            row.timed_out += lost["handshakes_lost"]
            outcome.cut_handshakes += lost["handshakes_lost"]
            continue
        for name, times in lost.items():
            if times:
                setattr(row, name, getattr(row, name) + times)
                _note(outcome, f"our load generator: {name} {times}", "loadgen", one["began_s"], one["at_s"], began_s)
    if row.handshakes or row.lost:
        outcome.rows["loadgen"] = row


def _note(outcome: Outcome, text: str, kind: str, from_s: float, at_s: float, began_s: float) -> None:
    outcome.errors[text] += 1
    deeds = [done.kind for done in outcome.done if done.began_s - 0.1 <= at_s and done.ended_s + _AFTER_S >= from_s]
    outcome.lost_at.append(
        f"{at_s - began_s:.2f} s {kind} (well at {from_s - began_s:.2f}): {text}; {', '.join(deeds) or 'calm'}"
    )


def _killed(kills: Sequence[Kill], from_s: float, at_s: float) -> bool:
    """Whether a kill falls into that time, with a second for packets in flight or unread when it last worked."""
    return any(from_s - 1.0 <= kill.at_s <= at_s for kill in kills)


def _near(done: Sequence[Done], at_s: float) -> bool:
    return any(one.began_s - 0.1 <= at_s <= one.ended_s + _AFTER_S for one in done)


def verdict(outcome: Outcome) -> list[str]:
    """Return the violations, for a node that must lose nothing; an empty list is a success."""
    total, found = outcome.total, []
    for name, number in (
        ("connections lost", total.connections_lost),
        ("handshakes lost", total.handshakes_lost),
        ("requests failed", total.requests_failed),
    ):
        if number:
            found.append(f"{number} {name}")
    if outcome.kills and outcome.back:
        # A new connection and its first answer are 2 round trips; the load of the two cores affects both.
        bound_ms = max(50.0, 2 * quantile(outcome.connects, 0.99))
        if quantile(outcome.back, 0.5) > bound_ms:
            found.append(f"back after a reset in {quantile(outcome.back, 0.5):.1f} ms, more than {bound_ms:.1f}")
    known = sum(kill.connections for kill in outcome.kills)
    if total.reset + total.timed_out > 1.5 * known + 20 * len(outcome.kills):
        found.append(f"{total.reset + total.timed_out} connections put down to killed workers, which had {known}")
    if (untold := total.timed_out - outcome.migrated - outcome.cut_handshakes) > 0:
        found.append(f"{untold} connections of killed workers were not told by a reset")
    if outcome.counts is not None:
        found += problems(outcome.counts)
    succeeded = Counter(one.kind for one in outcome.done if not one.note)
    found += [
        f"{kind}: {succeeded[kind]} of {times}" for kind, times in outcome.planned.items() if succeeded[kind] < times
    ]
    return found


def quantile(values: Sequence[float], q: float) -> float:
    """Return the q-quantile; 0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(len(values) * q))] if values else 0.0


def report(outcome: Outcome) -> str:
    """Return the Markdown block of a run."""
    succeeded = Counter(one.kind for one in outcome.done if not one.note)
    what = ", ".join(f"{succeeded[kind]} x {kind}" for kind in outcome.planned if kind in succeeded)
    lines = [
        f"### {outcome.subject}: {what or 'left alone'}",
        "",
        f"{outcome.about}. Seed {outcome.seed}, {outcome.seconds:.0f} s{_connections(outcome)}{_idle(outcome)}.",
        "",
        "| work | " + " | ".join(_COLUMNS) + " |",
        "| --- |" + " ---: |" * len(_COLUMNS),
        *(f"| {kind} | " + " | ".join(map(str, row.values())) + " |" for kind, row in sorted(outcome.rows.items())),
        "| **all** | " + " | ".join(f"**{value}**" for value in outcome.total.values()) + " |",
        "",
        f"p99 of a short request: {quantile(outcome.calm, 0.99):.1f} ms when nothing happens, "
        f"{quantile(outcome.disturbed, 0.99):.1f} ms during a change and within a second of it "
        f"(medians {quantile(outcome.calm, 0.5):.1f} and {quantile(outcome.disturbed, 0.5):.1f} ms).",
    ]
    if outcome.kills:
        lines += ["", _kills(outcome)]
    lines += ["", *_deeds(outcome.done)]
    if outcome.counts is not None:
        lines += ["", packet_table(outcome.counts)]
    elif outcome.udp:
        udp = outcome.udp
        lines += [
            "",
            f"Packets: the client sent {outcome.client_sent:,}; of the trains that they became, the kernel gave "
            f"{udp['InDatagrams']:,} to a socket, had no socket for {udp['NoPorts']:,} and no room for "
            f"{udp['RcvbufErrors']:,}.",
        ]
    lines += [f"- {times} x {text}" for text, times in outcome.errors.most_common(8)]
    return "\n".join(lines)


def _kills(outcome: Outcome) -> str:
    back, connects = outcome.back, outcome.connects
    known = sum(kill.connections for kill in outcome.kills)
    return (
        f"Killed workers had {known} connections. From the reset to the first "
        f"answer on a new connection: median {quantile(back, 0.5):.1f} ms, 99 % {quantile(back, 0.99):.1f} ms, longest "
        f"{max(back, default=0):.1f} ms ({len(back)} connections). A new connection and its answer at any time: median "
        f"{quantile(connects, 0.5):.1f} ms, 99 % {quantile(connects, 0.99):.1f} ms. Of those that timed out, "
        f"{outcome.migrated} had migrated (their reset came where quic-go does not look for it) and "
        f"{outcome.cut_handshakes} were handshakes."
    )


def _connections(outcome: Outcome) -> str:
    return f", up to {outcome.most_connections} connections at a time" if outcome.most_connections else ""


def _idle(outcome: Outcome) -> str:
    return "" if outcome.idle_share is None else f", CPU {100 * outcome.idle_share:.0f} % idle"


def _deeds(done: Sequence[Done]) -> list[str]:
    rows = ["| change | done | took, median | longest | failed and done again |", "| --- | ---: | ---: | ---: | ---: |"]
    for kind in sorted({one.kind for one in done}):
        good = [one.ended_s - one.began_s for one in done if one.kind == kind and not one.note]
        bad = sum(one.kind == kind and bool(one.note) for one in done)
        rows.append(f"| {kind} | {len(good)} | {quantile(good, 0.5):.1f} s | {max(good, default=0):.1f} s | {bad} |")
    return rows if len(rows) > 2 else []
