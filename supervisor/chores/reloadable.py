"""What a reload cannot change, and what it could not carry out: refused before any worker hears of the revision. Pure,
but for what this machine has (users, libraries).

Everything else changes in a reload: most of it in living workers, `server.workers` by scaling, `server.engine` and
`server.user` by replacing the workers one after the other (upkeep.py).
"""

from __future__ import annotations

from typing import Any, Final

from velocity_edge.config.model import Config
from velocity_edge.errors import CannotDo, Unavailable
from velocity_edge.machine.worker_user import Rights, choose
from velocity_edge.quic.open_engine import native_missing

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


def refuse_workers(config: Config, cores: int) -> None:
    """Refuse a revision whose workers could not be started, or would have no slot."""
    server = config.server
    if server.workers and server.workers > cores:
        raise CannotDo(
            f"cannot reload: server.workers: {server.workers} workers need a restart of the node, "
            f"which was started with slots for {cores}"
        )
    if server.engine == "native" and (missing := native_missing()):
        raise CannotDo(f"cannot reload: server.engine: cannot use the native engine: {missing}")
    try:
        choose(server.user, Rights.of_this_process())
    except Unavailable as error:
        raise CannotDo(f"cannot reload: server.user: {error}") from None
