"""`status`: the state of the node on one screen. Counters count since the start of the node; `--json` has all."""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Iterator
from typing import Final

import click

from velocity_edge.cli.node import Node
from velocity_edge.cli.output import show_json, show_raw
from velocity_edge.cli.traffic_line import traffic_line
from velocity_edge.cli.units import count, duration, size
from velocity_edge.exits import Exit
from velocity_edge.status.banner import dispatch_lines
from velocity_edge.status.document import NodeStatus, Upstream, WorkerStatus
from velocity_edge.text.printable import printable

_GROUPS: Final = {
    "handshakes_x25519mlkem768": "X25519MLKEM768",
    "handshakes_secp256r1mlkem768": "SecP256r1MLKEM768",
    "handshakes_secp384r1mlkem1024": "SecP384r1MLKEM1024",
    "handshakes_classical": "classical",
}
_COLUMNS: Final = (
    "worker",
    "core",
    "state",
    "version",
    "engine",
    "conns",
    "opening",
    "requests",
    "lag",
    "memory",
    "age",
    "pid",
)
#: `healthy`: the number of workers that consider it so; `failed`: attempts without a complete response.
_UPSTREAM_COLUMNS: Final = (
    "upstream",
    "healthy",
    "running",
    "idle",
    "requests",
    "5xx",
    "failed",
    "retries",
    "ejections",
    "p50",
    "p99",
)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def status(as_json: bool) -> int:
    """Show the state of the node on one screen.

    Exit code 0: nothing is degraded; 6: something is; 3: no node answers.
    """
    node = Node()
    answer = node.get("/v1/status")
    found = node.understood(answer)
    if as_json:
        show_json(answer)
    else:
        show_raw(screen(found, time.time(), colour=sys.stdout.isatty()))
    return Exit.DEGRADED if found["degraded"] else Exit.DONE


def screen(found: NodeStatus, now_s: float, *, colour: bool = False) -> str:
    """Return the screen for a status, every line printable. *now_s*: seconds since 1970."""
    traffic = (*_traffic(found), *_pressure(found, now_s))
    upstreams = [*_upstreams(found["upstreams"]), ""] if found.get("upstreams") else []
    parts = (*_head(found, now_s), "", *_workers(found["workers"]), "", *upstreams, *traffic, *_end(found))
    lines, state = [printable(part) for part in parts], printable(found["state"])
    if colour:
        lines[0] = (
            click.style(state, fg="green" if state == "serving" else "yellow", bold=True) + lines[0][len(state) :]
        )
    return "\n".join(lines)


def _head(found: NodeStatus, now_s: float) -> Iterator[str]:
    state = found["state"]
    why = f" ({found['reason']})" if found["reason"] else ""
    facts = list(dispatch_lines(found))
    if found["state"] in ("quiescing", "quiesced"):
        why += f" since {time.strftime('%H:%M:%SZ', time.gmtime(found['state_at_s']))}"
        why += f", {duration(now_s - found['state_at_s'])} ago"
    yield (
        f"{state}{why}  {', '.join(found['listeners'])}  {facts[0][1]}  "
        f"up {duration(found.get('uptime_s', now_s - found['started_at_s']))}  velocity-edge {found['version']}"
    )
    for _, text in facts[1:]:
        yield text
    if found["state"] in ("quiescing", "quiesced"):
        yield "`velocity-edge admin resume` accepts clients again"
    for certificate in found["certificates"]:
        days = (certificate["not_after_s"] - now_s) / 86400
        when = f"expires in {days:.0f} days" if days >= 0 else "HAS EXPIRED"
        yield f"certificate {certificate['name']} {when}  SHA-256 {certificate['fingerprint'][:23]}..."
    ages = ", ".join(f"{epoch}: {duration(age)}" for epoch, age in found["keys"]["ages_s"].items())
    yield f"keys: epoch {found['keys']['seal_with']} seals (age {ages})"
    for row in found["keys"]["epochs"]:
        if row["state"] != "seals" and row["connections"]:
            yield f"connection IDs of epoch {row['epoch']}: {count(row['connections'])} connections"
    yield from _drain(found, now_s)
    yield from _left(found)
    if reload := found["last_reload"]:
        result = "worked" if reload["ok"] else f"was refused: {reload['reason']}"
        took = f" in {reload['took_s']:.1f} s" if reload["ok"] else ""
        yield f"last reload, {duration(now_s - reload['at_s'])} ago, {result}{took} (revision {reload['revision']})"


def _drain(found: NodeStatus, now_s: float) -> Iterator[str]:
    drain = found["drain"]
    if drain is None:
        return
    if not drain["running"]:
        yield f"last drain, {duration(now_s - drain['phase_at_s'])} ago, {drain['verdict']}"
        return
    new = "" if drain["new_per_s"] is None else f"new {drain['new_per_s']:.1f}/s, "
    eta = "" if drain["eta_s"] is None else f", eta ~{duration(drain['eta_s'])}"
    yield (
        f"drain: {drain['phase']} for {duration(now_s - drain['phase_at_s'])}, {new}"
        f"{count(drain['established'])} connections, {count(drain['running_requests'])} requests running{eta}, "
        f"hard stop in {duration(drain['hard_stop_at_s'] - now_s)}"
    )


def _left(found: NodeStatus) -> Iterator[str]:
    if left := found["left"]:
        named = ", ".join(
            f"{c['site'] or '(no name)'} {duration(c['age_s'])} {c['requests']} requests" for c in left[:3]
        )
        yield f"oldest: {named}{', ...' if len(left) > 3 else ''}"


def _workers(workers: list[WorkerStatus]) -> Iterator[str]:
    left = ("state", "version", "engine")
    return _table([_COLUMNS, *(_row(worker) for worker in workers)], left)


def _upstreams(upstreams: list[Upstream]) -> Iterator[str]:
    return _table([_UPSTREAM_COLUMNS, *(_upstream(row) for row in upstreams)], ("upstream",))


def _table(rows: list[tuple[str, ...]], left: Container[str]) -> Iterator[str]:
    """Yield *rows*, the first of which has the names of the columns; those in *left* begin at the same place."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (
            cell.ljust(width) if name in left else cell.rjust(width)
            for cell, width, name in zip(row, widths, rows[0], strict=True)
        )
        yield "  ".join(cells).rstrip()


def _upstream(row: Upstream) -> tuple[str, ...]:
    healthy = row["healthy_workers"]
    return (
        row["upstream"],
        "?" if healthy is None else "NONE" if healthy == 0 else str(healthy),
        count(row["running"]),
        count(row["idle"]),
        count(row["requests"]),
        count(row["errors_5xx"]),
        count(row["failed"]),
        count(row["retries"]),
        count(row["ejections"]),
        *("-" if (time_s := row[key]) is None else f"{time_s * 1000:.1f} ms" for key in ("p50_s", "p99_s")),
    )


def _row(worker: WorkerStatus) -> tuple[str, ...]:
    return (
        str(worker["worker_id"]),
        str(worker["core"]),
        f"{worker['state']}, busy" if worker.get("silent_s") else worker["state"],
        worker.get("version", ""),  # earlier versions do not report it
        worker["engine"],
        count(worker["connections"]),
        count(worker["half_open"]),
        count(worker["requests"]),
        f"{worker['loop_lag_ms']:.1f} ms",
        size(worker["rss_bytes"]),
        duration(worker["age_s"]),
        str(worker["pid"]),
    )


def _traffic(found: NodeStatus) -> Iterator[str]:
    counters = found["counters"]
    if line := traffic_line(found.get("traffic")):
        yield line
    done = counters.get("handshakes_completed", 0)
    by_group = ", ".join(f"{label} {count(counters[name])}" for name, label in _GROUPS.items() if counters.get(name, 0))
    post_quantum = done - counters.get("handshakes_classical", 0)
    share = f"  {100 * post_quantum / done:.1f} % post-quantum" if done else ""
    yield f"handshakes  {count(done)} done{share}{': ' + by_group if by_group else ''}"
    failed = [
        (counters.get("handshakes_failed", 0), "failed"),
        (counters.get("handshakes_timed_out", 0), "timed out"),
        (counters.get("handshakes_resumed", 0), "resumed"),
        (counters.get("hello_retry_requests", 0), "HelloRetryRequest"),
    ]
    yield "            " + ", ".join(f"{count(number)} {word}" for number, word in failed)
    yield "responses   " + ", ".join(
        f"{count(counters.get(f'responses_{kind}', 0))} {kind}" for kind in ("2xx", "3xx", "4xx", "5xx")
    )
    yield "bytes       " + f"{size(counters.get('receive_bytes', 0))} in, {size(counters.get('send_bytes', 0))} out"
    for stage, verdicts in found["packets"].items():
        seen = sorted(((n, name) for name, n in verdicts.items() if n), reverse=True)
        shown = ", ".join(f"{name.removeprefix('verdict_')} {count(n)}" for n, name in seen[:8])
        more = f" and {len(seen) - 8} more" if len(seen) > 8 else ""
        yield f"{stage:11} {shown or 'no packet'}{more}"


def _pressure(found: NodeStatus, now_s: float) -> Iterator[str]:
    for row in found.get("pressure", ()):  # earlier versions do not report it
        yield (
            f"PRESSURE: {row['text']}: {count(row['per_s'])}/s for {duration(now_s - row['since_at_s'])}, "
            f"{count(row['total'])} in all ({row['rule']})"
        )


def _end(found: NodeStatus) -> Iterator[str]:
    if (rollout := found.get("rollout")) and rollout["running"]:
        yield f"restarting workers: {rollout['progress']}"
    losses = [(found["counters"].get(f"requests_lost_{cause}", 0), cause) for cause in ("drain", "stop", "abort")]
    if any(number for number, _ in losses):
        yield "lost        " + ", ".join(f"{count(number)} requests by {cause}" for number, cause in losses if number)
    if number := found["counters"].get("log_lines_lost", 0):
        yield f"{count(number)} log lines were lost: the reader of the log is too slow"
    if found["restarts"]:
        yield f"workers were restarted {found['restarts']} times after a failure"
    for sentence in found["degraded"]:
        yield f"DEGRADED: {sentence}"
