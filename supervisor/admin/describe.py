"""Fills the status document (velocity_edge/status/document.py) from the state of the supervisor. Changes nothing.

What is wrong is in degraded.py, the keys are in describe_keys.py.
"""

from __future__ import annotations

import os

from supervisor.admin.degraded import degraded
from supervisor.admin.describe_keys import describe_keys
from supervisor.machine import sockets
from supervisor.node.drain_contract import Phase, verdict
from supervisor.node.lifecycle import WorkerState
from supervisor.node.worker import Worker
from supervisor.shell import Shell
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
from velocity_edge.status.upstream_rows import upstream_rows
from velocity_edge.text import logs
from velocity_edge.wire.counters import VERDICTS
from velocity_edge.wire.slab import total

#: Connections that `status` names; each worker reports at most as many.
MAX_LEFT = 8
_TIERS = {Tier.A: "A", Tier.B: "B", Tier.C: "C", Tier.D: "D"}


def describe(shell: Shell) -> NodeStatus:
    """Return the status."""
    node, steering = shell.node, shell.steering
    wall_s, now_s = shell.wall_clock(), shell.clock()
    counters = total(slot.slab for slot in shell.slots)
    counters["log_lines_lost"] += logs.lost()
    buffers = _buffers(shell)
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
        "buffers": buffers,
        "keys": describe_keys(shell),
        "last_reload": _last_reload(shell, wall_s - now_s),
        "rollout": _rollout(shell),
        "pressure": [_pressure(episode, wall_s - now_s) for episode in shell.pressure.in_force.values()],
        "traffic": shell.history.traffic(),
        "upstreams": upstream_rows(shell.sums.table()),
        "degraded": list(degraded(shell, buffers)),
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
    """Return the oldest connections that draining workers wait for, oldest first."""
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
    # A heartbeat may be a second old; a Drained that came since, with no connection left, is newer.
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
