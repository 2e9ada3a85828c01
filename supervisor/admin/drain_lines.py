"""The lines that report a drain or a quiesce: facts with stable names, and one line of text. Pure.

`text` is for people and its words may change; scripts read the facts. Times are given twice, from the beginning of the
drain (`t_s`, T+61s) and as a date in UTC (`at`).
"""

from __future__ import annotations

from collections.abc import Sequence

from velocity_edge.admin.answers import Answer, DrainProgress
from velocity_edge.status.document import Connection, Drain

_DAY_S = 86_400


def utc(at_s: float) -> str:
    """Return 14:02:11Z. *at_s*: seconds since 1970."""
    return f"{clock(at_s % _DAY_S)}Z"


def since(at_s: float, now_s: float, reason: str = "") -> str:
    """Return "since 14:02:11Z (00:01:01 ago), CHG-1234"."""
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


def drain_line(drain: Drain, now_s: float, at: str, disable_file: str, left: Sequence[Connection]) -> Answer:
    """Return how far a drain is. *now_s*: seconds since 1970; *at*: the same as a date."""
    t_s = (drain["phase_at_s"] if not drain["running"] else now_s) - drain["since_at_s"]
    status, expect = _in_words(drain, now_s, disable_file, left)
    text = f"T+{t_s:.0f}s".ljust(8) + f"{drain['phase']:12} {status}" + (f"  expect: {expect}" if expect else "")
    facts = DrainProgress(
        t_s=round(t_s, 1),
        at=at,
        phase=drain["phase"],
        new_per_s=drain["new_per_s"],
        established=drain["established"],
        in_handshake=drain["in_handshake"],
        told=drain["told"],
        running_requests=drain["running_requests"],
        decay_per_s=drain["decay_per_s"],
        eta_s=drain["eta_s"],
        lost=drain["lost"],
        cut=drain["cut"],
        proof=drain["proof"],
        expect=expect,
        left=list(left),
    )
    return Answer(text, facts)


def _in_words(drain: Drain, now_s: float, disable_file: str, left: Sequence[Connection]) -> tuple[str, str]:
    """Return the status of the drain, and the condition that ends its phase."""
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
            return f"GOAWAY sent {drain['told']}/{drain['established']}, {established}", "GOAWAY sent to all"
        case "live" | "cutting":
            decay = "" if drain["decay_per_s"] is None else f" decay={drain['decay_per_s']:.1f}/s"
            eta = "" if drain["eta_s"] is None else f" eta=~{drain['eta_s']:.0f}s"
            numbers = f"{established} in_handshake={drain['in_handshake']} running={drain['running_requests']}"
            last = f"  ({who(left, drain['established'] + drain['in_handshake'])})" if 0 < len(left) <= 3 else ""
            return f"{numbers}{decay}{eta}{last}", f"established=0, {hard_stop}"
        case _:
            return f"{established} in_handshake={drain['in_handshake']}  {drain['verdict']}", ""
