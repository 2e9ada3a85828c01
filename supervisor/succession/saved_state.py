"""What a supervisor leaves to its successor: the content of `<runtime>/state.json`. Types and their JSON. Pure.

The file names the living workers (by pid and start time: a recycled pid is not a worker), the slots, the dead worker
ids that packets may still carry, what an operator asked for (a quiesce, a drain, a rolling restart), the configuration
in use, and the next worker id. Times are CLOCK_MONOTONIC and mean nothing after a reboot: the boot id tells.

The file grows as messages do (docs/adr/0007-versions-side-by-side.md): an unknown field is ignored, a new field has a
default, and `version` changes only when the meaning of a field does. A drain and a quiesce are written as the node has
them (`Contract`, `Quiesce`), in the format of version 1: the terms of a drain beside its other fields, and values that
a later version may add (a mode, a phase) do not make the file unreadable.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, ConfigDict, SerializerFunctionWrapHandler, TypeAdapter, WrapSerializer
from pydantic.dataclasses import dataclass

from supervisor.node.drain_contract import Contract, Phase, Terms
from supervisor.node.happenings import Quiesce, QuiesceMode
from velocity_edge.wire.messages import Listener

#: The meaning of the fields, and the oldest meaning that this version reads.
VERSION: Final = 1
OLDEST_VERSION: Final = 1
_GROWING: Final = ConfigDict(extra="ignore")
_TERMS: Final = {each.name for each in fields(Terms)}


def _read_quiesce(value: Any) -> Any:
    if isinstance(value, dict) and value.get("mode") not in set(QuiesceMode):
        # A mode that only a later version has: the node stays out of service, as an operator wanted.
        return value | {"mode": QuiesceMode.GRACEFUL}
    return value


def _write_quiesce(wish: Quiesce, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
    document: dict[str, Any] = write(wish)
    return document | {"since_s": wish.since_s or 0.0}


def _read_drain(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value.get("phase") not in set(Phase):
        # A phase that only a later version has: without its drain the node stays quiesced, as an operator wanted.
        return None
    return value | {"terms": {name: value[name] for name in _TERMS if name in value}}


def _write_drain(drain: Contract | None, write: SerializerFunctionWrapHandler) -> dict[str, Any] | None:
    document: dict[str, Any] | None = write(drain)
    return document if document is None else document.pop("terms") | document


SavedQuiesce = Annotated[Quiesce, BeforeValidator(_read_quiesce), WrapSerializer(_write_quiesce)]
SavedDrain = Annotated[Contract | None, BeforeValidator(_read_drain), WrapSerializer(_write_drain)]


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedWorker:
    """A living worker."""

    worker_id: int
    core: int
    slot: int
    pid: int
    start_ticks: int
    leaving: bool
    leave_by_s: float | None = None


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedDeparted:
    """A dead worker id that packets may still carry."""

    worker_id: int
    core: int
    slot: int
    until_s: float


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedRollout:
    """A rolling restart that is running."""

    cores: list[int]
    newcomer: int | None


@dataclass(frozen=True, slots=True, config=_GROWING)
class SavedState:
    """The file. `revision` is the one in use, `last_revision` the newest that any worker may know.

    `config` is what `revision` means: the file that the node was configured from may have changed since, or be invalid.
    """

    boot_id: str
    cores: int
    cpus: list[int]
    target: int
    next_id: int
    revision: int
    listeners: list[Listener]
    workers: list[SavedWorker]
    departed: list[SavedDeparted]
    quiesced: SavedQuiesce | None
    #: The successor is to replace the workers that it adopts: an upgrade.
    roll: bool = False
    drain: SavedDrain = None
    adoptions: int = 0
    rollout: SavedRollout | None = None
    last_revision: int = 0
    config: dict[str, Any] | None = None
    #: The workers that new connections went to.
    accepting: list[int] = field(default_factory=list)
    version: int = VERSION


_ADAPTER: Final = TypeAdapter(SavedState)


def encode(state: SavedState) -> bytes:
    """Return the content of the file."""
    return _ADAPTER.dump_json(state)


def decode(content: bytes) -> SavedState:
    """Return what the file says. Raises `pydantic.ValidationError`."""
    return _ADAPTER.validate_json(content)
