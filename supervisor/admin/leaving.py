"""Quiesce, drain and resume: what an operator asks, and the lines that report the progress until it is over.

The operation belongs to the Node (supervisor/node): it goes on when the caller leaves, and a second request attaches to
it. The words are in drain_lines.py; this waits and polls.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from supervisor.admin.describe import MAX_LEFT, describe_drain, describe_left
from supervisor.admin.drain_lines import clock, drain_line, many, since, who
from supervisor.node import happenings
from supervisor.node.arrivals import Trend
from supervisor.node.drain_contract import Contract, Terms
from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from velocity_edge.admin import requests
from velocity_edge.admin.answers import Answer, DrainProgress, Left, LeftTooLong, QuiesceProgress
from velocity_edge.admin.requests import BadRequest
from velocity_edge.errors import CannotDo
from velocity_edge.exits import Exit

_TERMS: Final = Terms()
_QUIESCE: Final = happenings.Quiesce()
_TIMEOUT_S: Final = 600.0
#: A line when something has changed, at most this often; and at least this often when nothing has.
_LINE_S: Final = 2.0
_STILL_HERE_S: Final = 5.0


class Departures:
    """How the clients of one node are asked to leave."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def quiesce(self, request: requests.Quiesce) -> AsyncIterator[Answer]:
        """Ask clients to leave; with `wait`, until few enough connections are left."""
        node, before = self._shell.node, self._shell.node.quiesced
        self._shell.happen(
            happenings.Quiesce(
                happenings.QuiesceMode(request.mode),
                request.reason,
                announce_s=_or(request.announce_s, _QUIESCE.announce_s),
                spread_s=_or(request.spread_s, _QUIESCE.spread_s),
                deadline_s=_or(request.deadline_s, _QUIESCE.deadline_s),
            )
        )
        if node.quiesced is before and before is not None:
            what = "draining" if node.contract and node.contract.running else str(node.state)
            yield Answer(f"already {what} {self._since(before.since_s or 0.0, before.reason)}")
        else:
            yield Answer(f"quiescing ({request.mode}){', ' + request.reason if request.reason else ''}")
        if request.wait:
            async for line in self._left(_or(request.below, 0.0), _or(request.timeout_s, _TIMEOUT_S)):
                yield line
        else:
            yield Answer(str(node.state), None, Exit.DONE)

    async def drain(self, request: requests.Drain) -> AsyncIterator[Answer]:
        """Take the node out of service step by step, or attach to a drain that is under way."""
        terms, shell = _terms(request), self._shell
        before = shell.node.contract
        holds = before is not None and before.holds
        if request.dry_run:
            yield self._dry_drain(terms, before if holds else None)
            return
        if request.attach and before is None:
            raise CannotDo("cannot attach: no drain is under way, and none has ended")
        if not request.attach:
            shell.happen(happenings.DrainNode(terms))
        contract = shell.node.contract
        assert contract is not None
        if contract is before:
            state = "draining" if contract.running else str(contract.phase).replace("_", " ")
            since_s = contract.since_s if contract.running else contract.phase_since_s
            yield Answer(f"already {state} {self._since(since_s, contract.terms.reason)}")
        async for line in self._follow(contract):
            yield line

    async def resume(self, _: requests.Resume) -> AsyncIterator[Answer]:
        """Serve again."""
        node = self._shell.node
        was, since_s, contract = node.state, node.state_since_s, node.contract
        cut_short = contract is not None and contract.running
        self._shell.happen(happenings.Resume())
        if was is NodeState.SERVING:
            yield Answer(f"already serving {self._since(since_s)}", None, Exit.DONE)
        else:
            ended = "the drain is over, " if cut_short else ""
            yield Answer(f"serving again: {ended}it was {was} {self._since(since_s)}", None, Exit.DONE)

    def _since(self, since_s: float, reason: str = "") -> str:
        now_s = self._shell.wall_clock()
        return since(since_s + now_s - self._shell.clock(), now_s, reason)

    def _dry_drain(self, terms: Terms, holds: Contract | None) -> Answer:
        node = self._shell.node
        if holds:
            text = f"would attach: already draining {self._since(holds.since_s, holds.terms.reason)}"
            return Answer(text, None, Exit.DONE)
        if node.state in (NodeState.STARTING, NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo(f"cannot drain: the node is {node.state}")
        return Answer(
            f"would write {self._shell.places.disable_file}, wait until new<{terms.settle_below_per_s:g}/s for "
            f"{terms.settle_s:g} s (at most {terms.announce_max_s:g} s), send GOAWAY to "
            f"{many(self._connections(), 'connection')} within {terms.spread_s:g} s, and close what is left "
            f"{terms.max_wait_s:g} s from now; nothing was changed",
            None,
            Exit.DONE,
        )

    def _connections(self) -> int:
        workers = self._shell.node.workers.values()
        return sum(worker.heartbeat.connections for worker in workers if worker.heartbeat)

    # --- waiting ---------------------------------------------------------------------------------------------------

    async def _follow(self, contract: Contract) -> AsyncIterator[Answer]:
        """Report a drain until it has ended."""
        shell = self._shell
        said: object = None
        said_s = phase = None
        while shell.node.contract is contract:
            drain, now_s, wall_s = describe_drain(shell), shell.clock(), shell.wall_clock()
            assert drain is not None
            left = describe_left(shell)[:MAX_LEFT]
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s))
            line = drain_line(drain, wall_s, at, str(shell.places.disable_file), left)
            if not drain["running"]:
                yield replace(line, exit_code=drain["exit_code"])
                return
            facts = _changing(line)
            waited_s = _STILL_HERE_S if said_s is None else now_s - said_s
            if phase != drain["phase"] or waited_s >= _STILL_HERE_S or (facts != said and waited_s >= _LINE_S):
                phase, said, said_s = drain["phase"], facts, now_s
                yield line
            await shell.wait_for_change(1.0)
        yield Answer("this drain is over, and another one has begun", None, Exit.IMPOSSIBLE)

    async def _left(self, below: float, timeout_s: float) -> AsyncIterator[Answer]:
        """Report a quiesce until few enough connections are left, it is undone, or the time is up."""
        shell, node, trend = self._shell, self._shell.node, Trend()
        end_s, said, said_s, first = shell.clock() + timeout_s, -1, 0.0, -1
        while True:
            now_s = shell.clock()
            # Heartbeats are up to a second old; the state of the Node, which follows from Drained, is not.
            left, lost = self._connections(), sum(worker.lost for worker in node.workers.values())
            facts = Left(connections=left, lost=lost)
            if node.state is NodeState.QUIESCED or (below > 0 and left <= below and not node.accepts):
                yield Answer(f"drained, lost={lost}" if left == 0 else f"{left} left, lost={lost}", facts, Exit.DONE)
                return
            if node.quiesced is None:
                yield Answer("the node was resumed meanwhile: the wait is over", facts, Exit.IMPOSSIBLE)
                return
            if node.state in (NodeState.STOPPING, NodeState.STOPPED):
                yield Answer("the node is stopping: the wait is over", facts, Exit.IMPOSSIBLE)
                return
            oldest = describe_left(shell)[:MAX_LEFT]
            if now_s >= end_s:
                text = (
                    f"{who(oldest, left)}, after {timeout_s:g} s. `velocity-edge admin abort --age 0s` closes them, "
                    f"`velocity-edge admin quiesce --wait --below {below:g} --timeout {timeout_s:g}s` waits again, "
                    "`velocity-edge admin resume` undoes it"
                )
                yield Answer(text, LeftTooLong(connections=left, lost=lost, left=oldest), Exit.TIMED_OUT)
                return
            trend.add(now_s, left)
            if now_s - said_s >= (_LINE_S if left != said else _STILL_HERE_S):
                first = left if first < 0 else first
                said, said_s = left, now_s
                yield self._quiesce_line(first, facts, trend, below)
            await shell.wait_for_change(1.0)

    def _quiesce_line(self, first: int, now: Left, trend: Trend, below: float) -> Answer:
        eta_s, oldest = trend.eta_s(below), describe_left(self._shell)[:1]
        beats = [worker.heartbeat for worker in self._shell.node.workers.values() if worker.heartbeat]
        running = sum(beat.left.running for beat in beats if beat.left)
        text = f"{first} → {now.connections} connections  {many(running, 'request')} running"
        text += f"  oldest {clock(oldest[0]['age_s'])}" if oldest else ""
        text += f"  eta ~{eta_s:.0f} s" if eta_s is not None else ""
        facts = QuiesceProgress(
            connections=now.connections,
            lost=now.lost,
            running_requests=running,
            eta_s=eta_s,
            decay_per_s=trend.falls_per_s(),
        )
        return Answer(text, facts)


def _changing(line: Answer) -> object:
    """Return the facts of a drain whose change is worth a line."""
    facts = line.facts
    assert isinstance(facts, DrainProgress)
    return facts.established, facts.in_handshake, facts.told, facts.running_requests, facts.new_per_s


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _terms(request: requests.Drain) -> Terms:
    max_wait_s = _or(request.max_wait_s, _TERMS.max_wait_s)
    terms = Terms(
        request.reason,
        _or(request.settle_below_per_s, _TERMS.settle_below_per_s),
        _or(request.settle_s, _TERMS.settle_s),
        # A short --max-wait leaves half of itself to the routes, and a quarter to GOAWAY.
        _or(request.announce_max_s, min(_TERMS.announce_max_s, max_wait_s / 2)),
        _or(request.spread_s, min(_TERMS.spread_s, max_wait_s / 4)),
        max_wait_s,
    )
    if terms.announce_max_s > max_wait_s:
        raise BadRequest(
            f"cannot understand announce_max_s {terms.announce_max_s:g}: expected no more than max_wait_s "
            f"{max_wait_s:g}"
        )
    return terms
