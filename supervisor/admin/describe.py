"""The node in words and numbers: fills velocity_edge/status/document.py from what the supervisor knows.

Reads, never changes. What is not as it should be becomes a sentence in `degraded`, with what would make it right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.admin.describe_keys import degraded_keys, describe_keys
from supervisor.machine import sockets
from supervisor.node.drain_contract import Phase, verdict
from supervisor.node.lifecycle import NodeState, WorkerState
from supervisor.node.worker import Worker
from supervisor.steering.base import Tier
from velocity_edge import __version__
from velocity_edge.config.values import format_address
from velocity_edge.status.document import (
    API_VERSION,
    Buffers,
    Connection,
    Drain,
    NodeStatus,
    Pressure,
    Reload,
    WorkerStatus,
)
from velocity_edge.status.document import Rollout as RolloutStatus
from velocity_edge.status.pressure import Episode
from velocity_edge.text import logs
from velocity_edge.wire.counters import VERDICTS
from velocity_edge.wire.slab import total

if TYPE_CHECKING:
    from supervisor.shell import Shell

#: Connections that `status` names; workers report as many each.
MAX_LEFT = 8
_TIERS = {Tier.A: "A", Tier.B: "B", Tier.C: "C", Tier.D: "D"}


def describe(shell: Shell) -> NodeStatus:
    """Return the status."""
    node, steering = shell.node, shell.steering
    wall_s, now_s = shell.wall_clock(), shell.clock()
    counters = total(slot.slab for slot in shell.slots)
    counters["log_lines_lost"] += logs.lost()
    return {
        "api_version": API_VERSION,
        "state": node.state,
        "state_at_s": node.state_since_s + wall_s - now_s if node.state_since_s else wall_s - now_s + shell.started_s,
        "reason": node.failure or (node.quiesced.reason if node.quiesced else ""),
        "version": __version__,
        "pid": os.getpid(),
        "node_id": shell.node_id,
        "started_at_s": shell.started_at_s,
        "uptime_s": now_s - shell.started_s,
        "runtime_dir": str(shell.places.runtime),
        "dispatch": {
            "tier": _TIERS[steering.tier],
            "mode": steering.tier,
            "missing": steering.missing,
            "adopted": steering.adopted,
            "interfaces": [f"{name} ({how})" for name, how in steering.interfaces.items()],
        },
        "listeners": [format_address(listener) for listener in shell.slots.listeners],
        "groups": shell.active.groups,
        "metrics_listen": shell.metrics_address,
        "certificates": shell.active.certificates,
        "workers": [_worker(shell, worker, now_s) for worker in node.workers.values()],
        "drain": describe_drain(shell),
        "left": describe_left(shell)[:MAX_LEFT],
        "disabled": shell.places.disabled,
        "restarts": sum(core.restarts for core in node.cores),
        "adoptions": node.adoptions,
        "counters": counters,
        "packets": {**steering.counters(), "worker": {name: counters[name] for name in VERDICTS}},
        "buffers": _buffers(shell),
        "keys": describe_keys(shell),
        "last_reload": _last_reload(shell, wall_s - now_s),
        "rollout": _rollout(shell),
        "pressure": [_pressure(episode, wall_s - now_s) for episode in shell.pressure.in_force.values()],
        "degraded": list(_degraded(shell)),
    }


def _pressure(episode: Episode, to_wall_s: float) -> Pressure:
    return {
        "rule": episode.rule.name,
        "text": episode.rule.text,
        "since_at_s": episode.since_s + to_wall_s,
        "per_s": episode.per_s(),
        "total": episode.total,
    }


def _worker(shell: Shell, worker: Worker, now_s: float) -> WorkerStatus:
    process, hello, heartbeat = shell.processes.get(worker.worker_id), worker.hello, worker.heartbeat
    return {
        "worker_id": worker.worker_id,
        "slot": worker.slot,
        "core": worker.core,
        "pid": process.pid if process else 0,
        "state": worker.state,
        "version": hello.version if hello else "",
        "engine": hello.engine if hello else "",
        "engine_reason": hello.engine_reason if hello else "",
        "connections": heartbeat.connections if heartbeat else 0,
        "half_open": heartbeat.half_open if heartbeat else 0,
        "requests": heartbeat.requests if heartbeat else 0,
        "loop_lag_ms": heartbeat.loop_lag_ms if heartbeat else 0.0,
        "rss_bytes": heartbeat.rss_bytes if heartbeat else 0,
        "revision": worker.revision,
        "age_s": now_s - worker.started_s,
        "silent_s": now_s - worker.heard_s if worker.busy else 0.0,
    }


def _buffers(shell: Shell) -> Buffers:
    got = [sockets.buffers(sock) for slot in shell.slots for sock in slot.udp]
    return {
        "receive_wanted": sockets.WANTED_BUFFER_BYTES,
        "receive_got": min(b.receive_bytes for b in got),
        "send_wanted": sockets.WANTED_BUFFER_BYTES,
        "send_got": min(b.send_bytes for b in got),
    }


def _last_reload(shell: Shell, to_wall_s: float) -> Reload | None:
    result = shell.node.last_reload
    if result is None:
        return None
    return {
        "revision": result.revision,
        "ok": result.ok,
        "reason": result.reason,
        "at_s": result.at_s + to_wall_s,
        "took_s": result.took_s,
    }


def describe_left(shell: Shell) -> list[Connection]:
    """Return the oldest connections that workers wait for, oldest first."""
    left: list[Connection] = [
        {"worker_id": worker.worker_id, "site": c.site, "age_s": c.age_s, "requests": c.requests}
        for worker in shell.node.workers.values()
        if worker.state is WorkerState.DRAINING and worker.heartbeat and worker.heartbeat.left
        for c in worker.heartbeat.left.oldest
    ]
    return sorted(left, key=lambda connection: -connection["age_s"])


def describe_drain(shell: Shell) -> Drain | None:
    """Return how far the drain is, or how the last one ended."""
    contract, now_s = shell.node.contract, shell.clock()
    if contract is None:
        return None
    to_wall_s = shell.wall_clock() - now_s
    # A heartbeat may be a second old; what a worker said since, that nobody is left, is newer.
    beats = [worker.heartbeat for worker in shell.node.workers.values() if worker.heartbeat and not worker.drained]
    connections, half_open = sum(b.connections for b in beats), sum(b.half_open for b in beats)
    text, exit_code = ("", None) if contract.running else verdict(contract)
    quiet = shell.node.arrivals.quiet_since_s
    return {
        "phase": contract.phase,
        "running": contract.running,
        "reason": contract.terms.reason,
        "since_at_s": contract.since_s + to_wall_s,
        "phase_at_s": contract.phase_since_s + to_wall_s,
        "hard_stop_at_s": contract.hard_stop_s + to_wall_s,
        "new_per_s": shell.node.arrivals.new_per_s,
        "settle_below_per_s": contract.terms.settle_below_per_s,
        "settle_s": contract.terms.settle_s,
        "quiet_s": now_s - quiet if quiet is not None and contract.phase is Phase.ARRIVALS else 0.0,
        "proof": contract.proof,
        "established": connections - half_open,
        "in_handshake": half_open,
        "told": sum(b.left.told for b in beats if b.left),
        "running_requests": sum(b.left.running for b in beats if b.left),
        "decay_per_s": shell.node.left.falls_per_s(),
        "eta_s": shell.node.left.eta_s(),
        "lost": contract.lost,
        "cut": contract.cut,
        "verdict": text,
        "exit_code": exit_code,
    }


def _rollout(shell: Shell) -> RolloutStatus | None:
    rollout = shell.node.rollout
    if rollout is None:
        return None
    return {
        "state": rollout.state,
        "running": rollout.running,
        "total": rollout.total,
        "done": rollout.total - len(rollout.cores),
        "lost": rollout.lost,
        "reason": rollout.reason,
        "progress": rollout.progress,
    }


def _degraded(shell: Shell) -> Iterator[str]:
    node = shell.node
    yield from shell.active.warnings
    yield from shell.notes
    yield from shell.problems()
    if node.failure:
        yield node.failure
    buffers = _buffers(shell)
    for kind, sysctl in (("receive", "rmem"), ("send", "wmem")):
        got = buffers[f"{kind}_got"]  # type: ignore[literal-required]
        if got < sockets.WANTED_BUFFER_BYTES:
            yield (
                f"{kind} buffers have {got // 1024} KiB instead of {sockets.WANTED_BUFFER_BYTES // 1024}: "
                f"`sysctl -w net.core.{sysctl}_max={sockets.WANTED_BUFFER_BYTES}` and a restart would make it right"
            )
    if node.state in (NodeState.SERVING, NodeState.QUIESCING, NodeState.QUIESCED):
        serving = {w.core for w in node.workers.values() if w.serving and not w.doomed}
        for core in node.cores[: node.target]:
            if core.index not in serving:
                starting = any(w.core == core.index and w.state is WorkerState.STARTING for w in node.workers.values())
                yield f"core {core.index} has no worker: {'one is starting' if starting else 'the last one failed'}"
    if not (node.rollout and node.rollout.running):
        others = [v for v in node.workers.values() if v.hello and not v.doomed and v.hello.version != __version__]
        if others:
            versions = ", ".join(sorted({v.hello.version or "an earlier version" for v in others if v.hello}))
            yield f"{len(others)} workers are of {versions}: `velocity-edge admin restart` makes them {__version__}"
        stale = [v for v in node.workers.values() if v.serving and not v.doomed and v.revision != node.revision]
        if stale and not node.reloading and all(v.activation_due_s is None for v in stale):
            yield (
                f"{len(stale)} workers serve an earlier configuration than revision {node.revision}: "
                "`velocity-edge admin reload` or `admin restart` brings them up to date"
            )
    if node.state is NodeState.SERVING and shell.places.disabled:
        yield (
            f"the disable file {shell.places.disable_file} is there: health checkers withdraw the routes of a node "
            "that serves; `velocity-edge admin resume` removes it"
        )
    for worker in node.workers.values():
        if worker.busy:
            silent_s = shell.clock() - worker.heard_s
            yield f"worker {worker.worker_id} is busy: heartbeat late by {silent_s:.0f} s, but it makes progress"
    yield from degraded_keys(shell)
    if node.last_reload and not node.last_reload.ok:
        yield f"the last reload was refused: {node.last_reload.reason}"
    if node.rollout and node.rollout.reason:
        yield f"the last restart was aborted: {node.rollout.reason}"
