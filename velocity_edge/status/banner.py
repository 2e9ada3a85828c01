"""What `serve` prints when the node has started: addresses, dispatch, certificates, and commands to try it.

A function of the status document, so that a screen shows no more than the node reports.
"""

from __future__ import annotations

import datetime
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from velocity_edge.config.values import parse_address
from velocity_edge.status.document import NodeStatus

#: The dispatch tiers in words.
TIERS: Final = {
    "A": "classic BPF on the sockets, no capabilities needed",
    "B": "eBPF on the sockets",
    "C": "eBPF on the sockets, XDP shield",
    "D": "eBPF on the sockets, XDP shield, CPUMAP",
}


def banner(status: NodeStatus, command: str | None = None) -> str:
    """Return the lines for *status*. *command*: how to run `velocity-edge` from the working directory."""
    command = command or _command()
    facts = list(_facts(status))
    width = max(len(name) for name, _ in facts)
    lines = [f"velocity-edge {status['version']} is {status['state']}.", ""]
    lines += [f"  {name:{width}}  {text}".rstrip() for name, text in facts]
    for sentence in status["degraded"]:
        lines += ["", f"  Degraded: {sentence}"]
    lines += ["", "  Try it:", *(f"    {line}" for line in _commands(status, command))]
    lines += [
        "",
        f"  Status: {command} status     Stop: Ctrl-C, or SIGTERM to let connections finish first",
        "",
    ]
    return "\n".join(lines)


def _facts(status: NodeStatus) -> Iterator[tuple[str, str]]:
    if quiesced := quiesced_line(status):
        yield "Clients", quiesced
    yield "Serving", "  ".join(f"https://{address}/ (UDP, HTTP/3)" for address in status["listeners"])
    yield from dispatch_lines(status)
    yield from engine_lines(status)
    if status["groups"]:
        yield "Key exchange", ", ".join(status["groups"])
    for certificate in status["certificates"]:
        end = datetime.datetime.fromtimestamp(certificate["not_after_s"], datetime.UTC)
        kind = "self-signed" if certificate["self_signed"] else certificate["name"]
        yield "Certificate", f"{kind}, until {end:%Y-%m-%d}, for {', '.join(certificate['names'])}"
        yield "", f"SHA-256 {certificate['fingerprint']}"
    if status["metrics_listen"]:
        yield "Metrics", f"http://{status['metrics_listen']}/"


def quiesced_line(status: NodeStatus) -> str:
    """Return since when and why clients are refused, and the command that ends it; empty if they are served."""
    if status["state"] not in ("quiescing", "quiesced"):
        return ""
    since = datetime.datetime.fromtimestamp(status["state_at_s"], datetime.UTC)
    why = f" ({status['reason']})" if status["reason"] else ""
    file = ", and the disable file exists" if status["disabled"] else ""
    return f"refused since {since:%Y-%m-%d %H:%M:%SZ}{why}{file}; `velocity-edge admin resume` accepts them again"


def dispatch_lines(status: NodeStatus) -> Iterator[tuple[str, str]]:
    """Yield the tier, and what the next one needs."""
    dispatch = status["dispatch"]
    where = f" on {', '.join(dispatch['interfaces'])}" if dispatch["interfaces"] else ""
    adopted = "; adopted from an earlier supervisor" if dispatch["adopted"] else ""
    yield "Dispatch", f"tier {dispatch['tier']}: {TIERS.get(dispatch['tier'], dispatch['mode'])}{where}{adopted}"
    if dispatch["missing"]:
        yield "", ("not " if dispatch["missing"].startswith("tier") else "") + dispatch["missing"]


def engine_lines(status: NodeStatus) -> Iterator[tuple[str, str]]:
    """Yield each engine in use, with the number of workers and the reason."""
    workers = status["workers"]
    kinds = dict.fromkeys((worker["engine"], worker["engine_reason"]) for worker in workers)
    for engine, reason in kinds:
        count = sum((worker["engine"], worker["engine_reason"]) == (engine, reason) for worker in workers)
        plural = "worker" if count == 1 else "workers"
        yield "Engine", f"{engine}, {count} {plural}" + (f" ({reason})" if reason else "")


def _commands(status: NodeStatus, command: str) -> Iterator[str]:
    if not status["listeners"]:
        return
    address = parse_address(status["listeners"][0])
    host = {"0.0.0.0": "localhost", "::": "localhost"}.get(address.host, address.host)
    host = f"[{host}]" if ":" in host else host
    insecure = any(certificate["self_signed"] for certificate in status["certificates"])
    url = f"https://{host}:{address.port}/" if address.port != 443 else f"https://{host}/"
    yield f"{command} client get {'--insecure ' if insecure else ''}{url}"
    yield f"curl --http3-only {'--insecure ' if insecure else ''}{url}        (curl 8.14 or later, built with HTTP/3)"


def _command() -> str:
    """Return the command that runs this installation from the working directory."""
    found = shutil.which("velocity-edge")
    ours = Path(sys.executable).parent / "velocity-edge"
    if found is not None and Path(found).resolve() == ours.resolve():
        return "velocity-edge"
    return str(ours.relative_to(Path.cwd()) if ours.is_relative_to(Path.cwd()) else ours)
