"""The rules by which a node defends itself now, decided once a second from the growth of its counters. Pure.

A rule is in force from the first second in which its counters grow by at least `at_least`, until `QUIET_S` have passed
without such a second. It is logged when it begins, at most once a minute while it lasts, and when it ends, so the
number of log lines does not depend on the size of an attack. `status` and the metrics have the same.

To add a rule: one line in `RULES`, with names of counters that exist (velocity_edge/wire/counters.py, and stage.verdict
of bpf/verdicts.py), and a row in docs/operations.md. No other code names single rules.

Times are parameters: monotonic, in seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: A rule ends after this time without a busy second: longer than pauses of a flood, shorter than a look at a screen.
QUIET_S: Final = 30.0
#: While a rule is in force, it is logged again after this time.
REMIND_S: Final = 60.0
#: The displayed rate is that of the last seconds.
RATE_OVER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Rule:
    """A measure that a node takes only under pressure. `name` is the label of its metric."""

    name: str
    #: What the node does, to which peers, and the setting behind it.
    text: str
    #: Their sum is what the rule counts.
    counters: tuple[str, ...]
    #: Per second; fewer are considered accidental.
    at_least: int = 1


RULES: Final = (
    Rule("retry", "new clients must validate their address (retry_threshold)", ("verdict_retried",)),
    Rule(
        "prefix_share",
        "networks with their share of half-open handshakes get no more (max_half_open)",
        ("verdict_dropped_prefix", "tokens_not_honoured"),
    ),
    Rule("half_open", "new connections are refused (max_half_open)", ("verdict_dropped_half_open",)),
    Rule("connections", "new connections are refused (max_connections)", ("verdict_dropped_connections",)),
    Rule("tokens", "address tokens that were used before are ignored", ("tokens_seen_again",), at_least=10),
    Rule("resets", "stateless resets are limited (max_resets_per_s)", ("verdict_dropped_reset_limit",)),
    Rule(
        "version_negotiation",
        "Version Negotiation is limited (max_version_negotiations_per_s)",
        ("verdict_dropped_version",),
        at_least=100,
    ),
    Rule("memory", "connections that use too much memory are closed", ("memory_exceeded",)),
    Rule(
        "migrations",
        "packets of connections that migrate too often are dropped (max_migrations_per_s)",
        ("migrations_refused",),
    ),
    Rule("excessive_load", "connections that reset too many streams are closed", ("closed_h3_excessive_load",)),
    Rule("work", "requests are queued, or get a 503", ("requests_shed", "open_files_refused")),
    Rule("sockets", "packets are lost because workers are too slow", ("socket_overflows",)),
    Rule(
        "shield_limit",
        "the shield drops what exceeds the rate of its network (dispatch.initials_per_s)",
        (
            "xdp.passed_must_retry",
            "xdp.dropped_initial_limit",
            "xdp.dropped_token_limit",
            "xdp.dropped_zero_rtt_limit",
            "xdp.dropped_version_limit",
        ),
    ),
    Rule("deny_list", "the shield drops packets of the deny list (dispatch.deny)", ("xdp.dropped_denied",)),
    Rule("attack_mode", "the shield drops all but known connections and Initials", ("xdp.dropped_attack",)),
)


@dataclass(slots=True)
class Episode:
    """A period in which a rule is in force."""

    rule: Rule
    since_s: float
    #: When the last busy second was.
    busy_s: float
    told_s: float
    #: What was counted since it began.
    total: int = 0
    #: (when, total then), of the last `RATE_OVER_S`.
    recent: deque[tuple[float, int]] = field(default_factory=deque)

    def count(self, number: int, now_s: float) -> None:
        """Add *number* that were counted until now."""
        self.total += number
        self.recent.append((now_s, self.total))
        while self.recent[0][0] < now_s - RATE_OVER_S:
            self.recent.popleft()

    def per_s(self) -> float:
        """Return the rate of the last `RATE_OVER_S`."""
        (began_s, began_total), (now_s, total) = self.recent[0], self.recent[-1]
        return (total - began_total) / (now_s - began_s) if now_s > began_s else float(total)


@dataclass(frozen=True, slots=True)
class Line:
    """One line for the log; `over`: the rule is no longer in force."""

    rule: str
    text: str
    over: bool = False


class Pressure:
    """Watches the counters of one node."""

    def __init__(self, rules: tuple[Rule, ...] = RULES) -> None:
        self._rules = rules
        self._before: Mapping[str, int] | None = None
        self._before_s = 0.0
        self.in_force: dict[str, Episode] = {}

    def observe(self, totals: Mapping[str, int], now_s: float) -> list[Line]:
        """Take the counters of the node, about once a second; return the lines to log.

        *totals* only grow, except that a counter may restart: one that fell counts as unchanged.
        """
        before, passed_s = self._before, now_s - self._before_s
        self._before, self._before_s = dict(totals), now_s
        if before is None or passed_s <= 0:
            return []
        lines: list[Line] = []
        for rule in self._rules:
            number = sum(max(0, totals.get(name, 0) - before.get(name, 0)) for name in rule.counters)
            lines += self._judge(rule, number, max(passed_s, 1.0), now_s)
        return lines

    def _judge(self, rule: Rule, number: int, passed_s: float, now_s: float) -> list[Line]:
        busy = number >= rule.at_least * passed_s if rule.at_least > 1 else number > 0
        episode = self.in_force.get(rule.name)
        if episode is None:
            if not busy:
                return []
            since_s = now_s - passed_s
            self.in_force[rule.name] = episode = Episode(rule, since_s, now_s, now_s)
            episode.recent.append((since_s, 0))
            episode.count(number, now_s)
            return [Line(rule.name, f"under pressure: {rule.text}: {episode.per_s():.0f} per second")]
        episode.count(number, now_s)
        if busy:
            episode.busy_s = now_s
        if now_s - episode.busy_s >= QUIET_S:
            del self.in_force[rule.name]
            lasted_s = episode.busy_s - episode.since_s
            return [Line(rule.name, f"over: {rule.text}: {episode.total} in {lasted_s:.0f} s", over=True)]
        if now_s - episode.told_s >= REMIND_S:
            episode.told_s = now_s
            text = f"still under pressure: {rule.text}: {episode.per_s():.0f} per second, {episode.total} in all"
            return [Line(rule.name, text)]
        return []


def totals_of(counters: Mapping[str, int], packets: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the counters of workers and packet programs under the names in `RULES`: counter, or stage.verdict."""
    stages = {f"{stage}.{verdict}": n for stage, verdicts in packets.items() for verdict, n in verdicts.items()}
    return {**counters, **stages}
