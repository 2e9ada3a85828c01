"""What a reload cannot change, and what it could not carry out: refused before any worker gets the revision. Pure.

Everything else changes in a reload: most of it in running workers, `server.workers` by scaling, `server.engine` and
`server.user` by replacing the workers one after the other (reloads.py, which also finds out what this machine has).
"""

from __future__ import annotations

from typing import Any, Final

from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo

#: What belongs to the sockets, the programs and the processes, not to a revision.
_FIXED: Final = (
    ("server.listen", lambda c: c.server.listen),
    ("server.node_id", lambda c: c.server.node_id),
    ("server.telemetry.metrics_listen", lambda c: c.server.telemetry.metrics_listen),
    ("dispatch.mode", lambda c: c.dispatch.mode),
    ("dispatch.interfaces", lambda c: c.dispatch.interfaces),
    ("tickets.storage", lambda c: c.tickets.storage),
)


def refuse_fixed(old: Config, new: Config) -> None:
    """Refuse a revision that needs other sockets or programs."""
    changed: list[str] = []
    value: Any
    for name, value in _FIXED:
        if value(old) != value(new):
            changed.append(name)
    if changed:
        raise CannotDo(f"cannot reload: a new value of {', '.join(changed)} needs a restart of the node")


def refuse_workers(config: Config, cores: int, engine_missing: str, user_refused: str) -> None:
    """Refuse a revision whose workers could not be started, or would have no slot.

    *engine_missing*, *user_refused*: why this machine has not the engine or the user that it names; empty if it has.
    """
    workers = config.server.workers
    if workers and workers > cores:
        raise CannotDo(
            f"cannot reload: server.workers: {workers} workers need a restart of the node, "
            f"which was started with slots for {cores}"
        )
    if engine_missing:
        raise CannotDo(f"cannot reload: server.engine: cannot use the native engine: {engine_missing}")
    if user_refused:
        raise CannotDo(f"cannot reload: server.user: {user_refused}")
