"""What is wrong with a node, one sentence each with its remedy: `degraded` of the status document."""

from __future__ import annotations

from collections.abc import Iterator

from supervisor.admin.describe_keys import degraded_keys
from supervisor.admin.unhealthy import unhealthy
from supervisor.machine import sockets
from supervisor.node.lifecycle import NodeState, WorkerState
from supervisor.shell import Shell
from velocity_edge import __version__
from velocity_edge.status.document import Buffers
from velocity_edge.status.upstream_rows import upstream_rows


def degraded(shell: Shell, buffers: Buffers) -> Iterator[str]:
    """Yield the sentences. *buffers*: what the kernel granted."""
    node = shell.node
    yield from shell.active.warnings
    yield from shell.notes
    yield from shell.problems()
    if node.failure:
        yield node.failure
    yield from _small_buffers(buffers)
    yield from _missing_workers(shell)
    yield from _outdated_workers(shell)
    if node.state is NodeState.SERVING and shell.places.disabled:
        yield (
            f"the disable file {shell.places.disable_file} is there: health checkers withdraw the routes of a node "
            "that serves; `velocity-edge admin resume` removes it"
        )
    for worker in node.workers.values():
        if worker.busy:
            silent_s = shell.clock() - worker.heard_s
            yield f"worker {worker.worker_id} is busy: heartbeat late by {silent_s:.0f} s, but it makes progress"
    yield from unhealthy(shell.active.config.content, upstream_rows(shell.sums.table()))
    yield from degraded_keys(shell)
    if node.last_reload and not node.last_reload.ok:
        yield f"the last reload was refused: {node.last_reload.reason}"
    if node.rollout and node.rollout.reason:
        yield f"the last restart was aborted: {node.rollout.reason}"


def _small_buffers(buffers: Buffers) -> Iterator[str]:
    wanted = sockets.WANTED_BUFFER_BYTES
    for kind, got, sysctl in (
        ("receive", buffers["receive_got"], "rmem"),
        ("send", buffers["send_got"], "wmem"),
    ):
        if got < wanted:
            yield (
                f"{kind} buffers have {got // 1024} KiB instead of {wanted // 1024}: "
                f"run `sysctl -w net.core.{sysctl}_max={wanted}` and restart the node"
            )


def _missing_workers(shell: Shell) -> Iterator[str]:
    node = shell.node
    if node.state not in (NodeState.SERVING, NodeState.QUIESCING, NodeState.QUIESCED):
        return
    workers = node.workers.values()
    serving = {worker.core for worker in workers if worker.serving and not worker.doomed}
    for core in node.cores[: node.target]:
        if core.index not in serving:
            starting = any(worker.core == core.index and worker.state is WorkerState.STARTING for worker in workers)
            yield f"core {core.index} has no worker: {'one is starting' if starting else 'the last one failed'}"


def _outdated_workers(shell: Shell) -> Iterator[str]:
    """Yield workers of another version and of an earlier revision; a restart that is under way replaces them anyway."""
    node = shell.node
    if node.rollout and node.rollout.running:
        return
    workers = [worker for worker in node.workers.values() if not worker.doomed]
    others = [worker.hello.version for worker in workers if worker.hello and worker.hello.version != __version__]
    if others:
        versions = ", ".join(sorted({version or "an earlier version" for version in others}))
        yield f"{len(others)} workers run {versions}: `velocity-edge admin restart` replaces them by {__version__}"
    stale = [worker for worker in workers if worker.serving and worker.revision != node.revision]
    if stale and not node.reloading and all(worker.activation_due_s is None for worker in stale):
        yield (
            f"{len(stale)} workers serve an earlier configuration than revision {node.revision}: "
            "`velocity-edge admin reload` or `admin restart` brings them up to date"
        )
