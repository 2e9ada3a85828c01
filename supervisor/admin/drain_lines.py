"""The lines that tell how a drain or a quiesce comes along: facts with stable names, and one line of text. Pure.

`text` is for people and may get better words; scripts read the other fields. Times are told twice, from the beginning
(`t_s`, T+61s) and as a date in UTC (`at`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from velocity_edge.status.document import Connection, Drain

Line = dict[str, Any]
#: What of the status is in each line of a drain.
_FACTS = (
    "phase",
    "new_per_s",
    "established",
    "in_handshake",
    "told",
    "running_requests",
    "decay_per_s",
    "eta_s",
    "lost",
    "cut",
    "proof",
)


def utc(at_s: float) -> str:
    """Return 14:02:11Z."""
    return time.strftime("%H:%M:%SZ", time.gmtime(at_s))


def since(at_s: float, now_s: float, reason: str = "") -> str:
    """Return "since 14:02:11Z (61 s ago), CHG-1234"."""
    return f"since {utc(at_s)} ({clock(now_s - at_s)} ago){', ' + reason if reason else ''}"


def clock(seconds: float) -> str:
    """Return 00:07:40."""
    whole = max(0, int(seconds))
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def many(number: int, noun: str) -> str:
    """Return "1 request" or "2 requests"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def who(left: Sequence[Connection], total: int) -> str:
    """Return "3 connections are left: example.com 00:07:40 1 request, ..."."""
    are = f"{many(total, 'connection')} {'is' if total == 1 else 'are'} left"
    named = [
        f"{connection['site'] or '(no name)'} {clock(connection['age_s'])} {many(connection['requests'], 'request')}"
        for connection in left
    ]
    return f"{are}: {', '.join(named)}{', ...' if total > len(left) else ''}" if named else are


def drain_line(drain: Drain, now_s: float, disable_file: str, left: Sequence[Connection]) -> Line:
    """Return how far a drain is. *now_s*: seconds since 1970."""
    t_s = (drain["phase_at_s"] if not drain["running"] else now_s) - drain["since_at_s"]
    facts, expect = _in_words(drain, now_s, disable_file, left)
    words = f"T+{t_s:.0f}s".ljust(8) + f"{drain['phase']:12} {facts}" + (f"  expect: {expect}" if expect else "")
    line: Line = {"t_s": round(t_s, 1), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now_s))}
    line |= {name: drain[name] for name in _FACTS}  # type: ignore[literal-required]
    return line | {"expect": expect, "left": list(left), "text": words}


def _in_words(drain: Drain, now_s: float, disable_file: str, left: Sequence[Connection]) -> tuple[str, str]:
    established = f"established={drain['established']}"
    hard_stop = f"hard stop in {max(0.0, drain['hard_stop_at_s'] - now_s):.0f}s"
    match drain["phase"]:
        case "routes":
            return f"writing the disable file {disable_file}; /readyz fails", ""
        case "arrivals":
            new = "?" if drain["new_per_s"] is None else f"{drain['new_per_s']:.1f}"
            quiet = f" ({drain['quiet_s']:.0f}s so far)" if drain["quiet_s"] else ""
            expect = f"new<{drain['settle_below_per_s']:g}/s for {drain['settle_s']:g}s{quiet}"
            return f"new={new}/s {established}", expect
        case "quiesce":
            return f"GOAWAY sent {drain['told']}/{drain['established']}, {established}", "everybody told"
        case "live" | "cutting":
            decay = "" if drain["decay_per_s"] is None else f" decay={drain['decay_per_s']:.1f}/s"
            eta = "" if drain["eta_s"] is None else f" eta=~{drain['eta_s']:.0f}s"
            numbers = f"{established} in_handshake={drain['in_handshake']} running={drain['running_requests']}"
            last = f"  ({who(left, drain['established'] + drain['in_handshake'])})" if 0 < len(left) <= 3 else ""
            return f"{numbers}{decay}{eta}{last}", f"established=0, {hard_stop}"
        case _:
            return f"{established} in_handshake={drain['in_handshake']}  {drain['verdict']}", ""
