"""What a reload does about a changed key: use it at once, replace workers, or refuse, as the node must restart. Pure.

`config diff` tells it before a reload; supervisor/chores/reloadable.py refuses by the same table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from velocity_edge.config.model import Config


class Effect(StrEnum):
    """What it takes to use a new value."""

    LIVE = "live"
    SCALED = "workers started or stopped"
    REPLACED = "workers replaced"
    RESTART = "restart needed"


#: What belongs to the sockets, the programs and the processes, not to a revision.
RESTART: Final = (
    "server.listen",
    "server.node_id",
    "server.telemetry.metrics_listen",
    "dispatch.mode",
    "dispatch.interfaces",
    "tickets.storage",
)
_OTHERS: Final = {
    "server.workers": Effect.SCALED,
    "server.engine": Effect.REPLACED,
    "server.user": Effect.REPLACED,
}


def effect_of(key: str) -> Effect:
    """Return what a new value of *key* ("server.listen") takes; of a list, the key is that of the list."""
    return Effect.RESTART if key in RESTART else _OTHERS.get(key, Effect.LIVE)


def value_of(config: Config, key: str) -> Any:
    """Return the value of a key whose fields have the names of the file."""
    value: Any = config
    for step in key.split("."):
        value = getattr(value, step)
    return value
