"""What a reload cannot change, and what it could not carry out: refused before any worker gets the revision. Pure.

Everything else changes in a reload: most of it in running workers, `server.workers` by scaling, `server.engine` and
`server.user` by replacing the workers one after the other (reloads.py, which also finds out what this machine has).
Short because the table of keys is in velocity_edge/config/effects.py.
"""

from __future__ import annotations

from velocity_edge.config.effects import RESTART, value_of
from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo


def refuse_fixed(old: Config, new: Config) -> None:
    """Refuse a revision that needs other sockets or programs."""
    changed = [key for key in RESTART if value_of(old, key) != value_of(new, key)]
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
