"""The orders about a worker's connections: Drain, Resume, Abort and Move. The runs themselves are in workers/drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from velocity_edge.keys.table import CID_CONFIGS
from velocity_edge.wire import messages as m
from workers.drain.drain_plan import Drain
from workers.drain.drain_run import DrainRun
from workers.drain.move_run import MoveRun
from workers.process.state import State


def drain(order: m.Drain, state: State, loop: asyncio.AbstractEventLoop, report: Callable[[m.Report], None]) -> None:
    """Begin a drain, or continue the present one with another deadline or kind."""

    def drained(lost: int, cut: int) -> None:
        report(m.Drained(lost, cut))

    serving = state.serving
    if serving is None or serving.active is None:
        drained(0, 0)
        return
    now_s = loop.time()
    if state.drain is not None:
        state.drain.renew(now_s + order.deadline_s, order.spread_s, discourage=order.discourage)
        return
    state.drain = DrainRun(
        loop,
        serving.engine,
        serving.exchanges.connections,
        Drain(now_s, now_s + order.deadline_s, order.spread_s, order.discourage, serving.told),
        accept=serving.accept,
        count_losses=lambda cut, lost: serving.count_losses("drain", cut, lost),
        drained=drained,
        flush_soon=serving.endpoint.flush_soon,
    )


def resume(state: State) -> None:
    """End the drain."""
    if state.drain is not None:
        state.drain.stop()
        state.drain = None


def abort(order: m.Abort, state: State) -> m.Aborted:
    """Close connections that are older than the order says; return the report."""
    closed = (0, 0)
    if state.serving is not None:
        closed = state.serving.close_connections(order.age_s, "abort", "aborted by the operator")
    return m.Aborted(*closed)


def move(order: m.Move, state: State, loop: asyncio.AbstractEventLoop) -> None:
    """Begin to replace the connection IDs of old keys."""
    if state.move is not None:
        if state.move.running and state.move.epochs == order.epochs:
            return  # ordered again: each connection keeps its turn
        state.move.stop()
        state.move = None
    serving = state.serving
    if serving is None or serving.active is None or state.drain is not None:
        return  # there are no connections, or all of them are drained anyway

    def config_ids() -> list[int]:
        table = state.table
        if table is None or state.drain is not None:
            return []
        old = [epoch for epoch in order.epochs if epoch in table.cid_live and epoch != table.seal_with]
        return [epoch % CID_CONFIGS for epoch in old]

    state.move = MoveRun(
        loop,
        serving.engine,
        serving.exchanges.connections,
        order.epochs,
        config_ids,
        order.spread_s,
        flush_soon=serving.endpoint.flush_soon,
    )


def stop(state: State) -> None:
    """Stop the timers of a drain and a move: the worker ends."""
    if state.move is not None:
        state.move.stop()
    if state.drain is not None:
        state.drain.stop()
