"""Quiesce, drain, resume: what an operator asks, and the lines that tell how it comes along, until it is over.

The operation is the node's: when nobody listens any more it goes on, and asking again attaches to it. What the node
does is decided in requests.py, drains.py and contract.py; the words are in progress.py; this waits and looks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from supervisor.admin.describe import MAX_LEFT, describe_drain, describe_left
from supervisor.admin.drain_lines import clock, drain_line, many, since, who
from supervisor.admin.fields import Line, Nonsense, done, flag, number, only, text
from supervisor.node.arrivals import Trend
from supervisor.node.drain_contract import Contract, Terms
from supervisor.node.happenings import DrainNode, Quiesce, QuiesceMode, Resume
from supervisor.node.lifecycle import NodeState
from supervisor.shell import Shell
from velocity_edge.errors import CannotDo

_TERMS: Final = Terms()
_WISH: Final = Quiesce()
#: A line when something has changed, but not more often than this; and when nothing has, one this often.
_LINE_S: Final = 2.0
_STILL_HERE_S: Final = 5.0


class Departures:
    """How one node takes leave."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    async def quiesce(self, body: Line) -> AsyncIterator[Line]:
        """Take leave of clients; with `wait`, until few enough connections are left."""
        only(body, "mode", "announce_s", "spread_s", "deadline_s", "wait", "below", "timeout_s")
        try:
            mode = QuiesceMode(body.get("mode", "graceful"))
        except ValueError:
            raise Nonsense(f"mode {body['mode']!r}: graceful, immediate or discourage would be right") from None
        wish = Quiesce(
            mode,
            text(body, "reason"),
            announce_s=number(body, "announce_s", 0.0),
            spread_s=number(body, "spread_s", _WISH.spread_s),
            deadline_s=number(body, "deadline_s", _WISH.deadline_s),
        )
        wait, below, timeout_s = flag(body, "wait"), number(body, "below", 0), number(body, "timeout_s", 600.0)
        node, before = self._shell.node, self._shell.node.quiesced
        self._shell.happen(wish)
        if node.quiesced is before and before is not None:
            what = "draining" if node.contract and node.contract.running else str(node.state)
            yield {"text": f"already {what} {self._since(before.since_s or 0.0, before.reason)}"}
        else:
            yield {"text": f"quiescing ({mode}){', ' + wish.reason if wish.reason else ''}"}
        if wait:
            async for line in self._left(below, timeout_s):
                yield line
        else:
            yield done(str(node.state), 0)

    async def drain(self, body: Line) -> AsyncIterator[Line]:
        """Take the node out by the contract, or attach to a drain that is under way."""
        only(body, "settle_s", "settle_below_per_s", "announce_max_s", "spread_s", "max_wait_s", "attach", "dry_run")
        terms, shell = _terms(body), self._shell
        before = shell.node.contract
        holds = before is not None and before.holds
        if flag(body, "dry_run"):
            yield self._dry_drain(terms, before if holds else None)
            return
        if flag(body, "attach") and before is None:
            raise CannotDo("cannot attach: no drain is under way, and none was")
        if not flag(body, "attach"):
            shell.happen(DrainNode(terms))
        contract = shell.node.contract
        assert contract is not None
        if contract is before:
            state = "draining" if contract.running else str(contract.phase).replace("_", " ")
            since_s = contract.since_s if contract.running else contract.phase_since_s
            yield {"text": f"already {state} {self._since(since_s, contract.terms.reason)}"}
        async for line in self._follow(contract):
            yield line

    async def resume(self, body: Line) -> AsyncIterator[Line]:
        """Serve again."""
        only(body)
        node = self._shell.node
        was, since_s, contract = node.state, node.state_since_s, node.contract
        cut_short = contract is not None and contract.running
        self._shell.happen(Resume())
        if was is NodeState.SERVING:
            yield done(f"already serving {self._since(since_s)}", 0)
        else:
            ended = "the drain is over, " if cut_short else ""
            yield done(f"serving again: {ended}it was {was} {self._since(since_s)}", 0)

    def _since(self, since_s: float, reason: str = "") -> str:
        now_s = self._shell.wall_clock()
        return since(since_s + now_s - self._shell.clock(), now_s, reason)

    def _dry_drain(self, terms: Terms, holds: Contract | None) -> Line:
        node = self._shell.node
        if holds:
            return done(f"would attach: draining already {self._since(holds.since_s, holds.terms.reason)}", 0)
        if node.state in (NodeState.STARTING, NodeState.STOPPING, NodeState.STOPPED):
            raise CannotDo(f"cannot drain: the node is {node.state}")
        connections = sum(v.heartbeat.connections for v in node.workers.values() if v.heartbeat)
        return done(
            f"would write {self._shell.places.disable_file}, wait until new<{terms.settle_below_per_s:g}/s for "
            f"{terms.settle_s:g} s (at most {terms.announce_max_s:g} s), tell {many(connections, 'connection')} to "
            f"leave within {terms.spread_s:g} s, and close what is left {terms.max_wait_s:g} s from now; "
            "nothing was changed",
            0,
        )

    # --- waiting ---------------------------------------------------------------------------------------------------

    async def _follow(self, contract: Contract) -> AsyncIterator[Line]:
        """Tell of a drain until it has ended."""
        shell = self._shell
        said: object = None
        said_s = phase = None
        while shell.node.contract is contract:
            drain, now_s = describe_drain(shell), shell.clock()
            assert drain is not None
            left = describe_left(shell)[:MAX_LEFT]
            line = drain_line(drain, shell.wall_clock(), str(shell.places.disable_file), left)
            if not drain["running"]:
                yield line | {"ok": drain["exit_code"] == 0, "exit_code": drain["exit_code"]}
                return
            facts = [line[name] for name in ("established", "in_handshake", "told", "running_requests", "new_per_s")]
            waited_s = _STILL_HERE_S if said_s is None else now_s - said_s
            if phase != line["phase"] or waited_s >= _STILL_HERE_S or (facts != said and waited_s >= _LINE_S):
                phase, said, said_s = line["phase"], facts, now_s
                yield line
            await shell.wait_for_change(1.0)
        yield done("this drain is over, and another one has begun", 5)

    async def _left(self, below: float, timeout_s: float) -> AsyncIterator[Line]:
        """Follow a quiesce until few enough connections are left; or they never will be; or the time is up."""
        shell, node, trend = self._shell, self._shell.node, Trend()
        end_s, said, said_s, first = shell.clock() + timeout_s, -1, 0.0, -1
        while True:
            now_s = shell.clock()
            # Heartbeats are a second old; what the node concluded from Drained is not.
            left = sum(v.heartbeat.connections for v in node.workers.values() if v.heartbeat)
            lost = sum(v.lost for v in node.workers.values())
            facts = {"connections": left, "lost": lost}
            if node.state is NodeState.QUIESCED or (below > 0 and left <= below and not node.accepts):
                yield {**done(f"drained, lost={lost}" if left == 0 else f"{left} left, lost={lost}", 0), **facts}
                return
            if node.quiesced is None:
                yield {**done("the node was resumed meanwhile: nothing is waited for any more", 5), **facts}
                return
            if node.state in (NodeState.STOPPING, NodeState.STOPPED):
                yield {**done("the node stops: nothing is waited for any more", 5), **facts}
                return
            oldest = describe_left(shell)[:MAX_LEFT]
            if now_s >= end_s:
                words = (
                    f"{who(oldest, left)}, after {timeout_s:g} s. `velocity-edge admin abort --age 0s` closes them, "
                    f"`velocity-edge admin quiesce --wait --below {below:g} --timeout {timeout_s:g}s` waits on, "
                    "`velocity-edge admin resume` undoes it"
                )
                yield {**done(words, 4), **facts, "left": oldest}
                return
            trend.add(now_s, left)
            if now_s - said_s >= (_LINE_S if left != said else _STILL_HERE_S):
                first = left if first < 0 else first
                said, said_s = left, now_s
                yield self._quiesce_line(first, left, below, trend) | facts
            await shell.wait_for_change(1.0)

    def _quiesce_line(self, first: int, left: int, below: float, trend: Trend) -> Line:
        eta_s, oldest = trend.eta_s(below), describe_left(self._shell)[:1]
        beats = [v.heartbeat for v in self._shell.node.workers.values() if v.heartbeat]
        running = sum(beat.left.running for beat in beats if beat.left)
        words = f"{first} → {left} connections  {many(running, 'request')} running"
        words += f"  oldest {clock(oldest[0]['age_s'])}" if oldest else ""
        words += f"  eta ~{eta_s:.0f} s" if eta_s is not None else ""
        return {"text": words, "running_requests": running, "eta_s": eta_s, "decay_per_s": trend.falls_per_s()}


def _terms(body: Line) -> Terms:
    max_wait_s = number(body, "max_wait_s", _TERMS.max_wait_s)
    terms = Terms(
        text(body, "reason"),
        number(body, "settle_below_per_s", _TERMS.settle_below_per_s),
        number(body, "settle_s", _TERMS.settle_s),
        # Who wants to be done soon does not wait longer than half of it for the routes.
        number(body, "announce_max_s", min(_TERMS.announce_max_s, max_wait_s / 2)),
        number(body, "spread_s", min(_TERMS.spread_s, max_wait_s / 4)),
        max_wait_s,
    )
    if terms.announce_max_s > max_wait_s:
        raise Nonsense(
            f"announce_max_s {terms.announce_max_s:g}: no more than max_wait_s {max_wait_s:g} would be right"
        )
    return terms
