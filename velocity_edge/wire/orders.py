"""Orders: the messages from the supervisor to a worker. The rules for their fields are in messages.py.

An order is not answered; the worker reports what is true afterwards (reports.py).
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from velocity_edge.wire.values import WIRE, Epoch, KeyedChain, Listener


@dataclass(frozen=True, slots=True, config=WIRE)
class Equip:
    """Use these sockets. The descriptors of the worker's slot travel along, as in bundle.py.

    The sending ends of the hand-over links are those of all slots of the node. Descriptors of a later version are
    handed back with `Held`. When the channel ends, the worker looks for another supervisor at `successor_path` (see
    `Hello`).
    """

    node_id: int
    listeners: list[Listener]
    slots: int
    successor_path: str = ""
    kind: Literal["Equip"] = "Equip"


@dataclass(frozen=True, slots=True, config=WIRE)
class Keep:
    """Keep the descriptors of another slot open, unread, for the next supervisor (`Held`).

    A worker keeps the other slot of its core, and slots of cores without a worker. The descriptors travel along, as in
    bundle.py. Without a keeper the sockets of a free slot would close with the supervisor, and a socket that closes
    renumbers its reuseport group.
    """

    slot: int
    kind: Literal["Keep"] = "Keep"


@dataclass(frozen=True, slots=True, config=WIRE)
class UseKeys:
    """The epoch table, newest first. All epochs open but the `closed`; `seal_with` names the epoch that seals.

    Every worker has acknowledged an epoch before any worker seals with it. `cid_epochs`: the epochs whose connection
    IDs decode; empty from an older supervisor, which means the sealing one and its neighbour.
    """

    epochs: list[Epoch]
    seal_with: int
    cid_epochs: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    kind: Literal["UseKeys"] = "UseKeys"


@dataclass(frozen=True, slots=True, config=WIRE)
class Roster:
    """The live workers: worker id -> slot. Strays of a worker that is not in it get a stateless reset.

    Worker ids are assigned in turn; those from `unborn_from` on were not assigned when this was sent (0: unknown). A
    worker whose loop was blocked may receive a packet for such a worker before it reads the roster that names it: that
    packet is dropped, never answered with a reset.
    """

    workers: dict[int, int]
    unborn_from: int = 0
    kind: Literal["Roster"] = "Roster"


@dataclass(frozen=True, slots=True, config=WIRE)
class Configure:
    """Prepare this revision and report `Prepared` or `Refused`; nothing changes yet.

    `config` is the resolved configuration (velocity_edge/config/model.py) as JSON. `chains` hold the certificates and
    keys, which the worker may not read from disk. One descriptor per entry of `roots` travels along: the opened root
    directories of static sites.
    """

    revision: int
    config: dict[str, Any]
    chains: list[KeyedChain]
    roots: list[str]
    kind: Literal["Configure"] = "Configure"


@dataclass(frozen=True, slots=True, config=WIRE)
class Activate:
    """Use this revision for new requests. The first activated revision makes a worker serve."""

    revision: int
    kind: Literal["Activate"] = "Activate"


@dataclass(frozen=True, slots=True, config=WIRE)
class Drain:
    """Accept no new connection, send GOAWAY over `spread_s`, report `Drained` when none is left, close at the deadline.

    With `discourage` new connections are still accepted: existing ones are sent GOAWAY, and nothing is reported. During
    a drain another `Drain` changes its deadline and its kind; no connection is sent GOAWAY twice, and `Drained` is
    reported again.
    """

    deadline_s: float
    spread_s: float = 0.0
    discourage: bool = False
    kind: Literal["Drain"] = "Drain"


@dataclass(frozen=True, slots=True, config=WIRE)
class Resume:
    """End a drain that is under way: accept new connections again."""

    kind: Literal["Resume"] = "Resume"


@dataclass(frozen=True, slots=True, config=WIRE)
class Abort:
    """Close the connections that are older than this, in seconds, and report `Aborted`."""

    age_s: float
    kind: Literal["Abort"] = "Abort"


@dataclass(frozen=True, slots=True, config=WIRE)
class Move:
    """Move connections that hold ids of these epochs to new ids, or send them GOAWAY; spread over `spread_s`.

    The move ends when no such connection is left, or with the next `Move`.
    """

    epochs: list[int]
    spread_s: float
    kind: Literal["Move"] = "Move"


@dataclass(frozen=True, slots=True, config=WIRE)
class SetLogLevels:
    """Log at these levels (velocity_edge/text/log_levels.py) in place of the configured ones, for this time.

    Empty `levels` end it. A worker of an earlier version ignores the order.
    """

    levels: str
    for_s: float
    kind: Literal["SetLogLevels"] = "SetLogLevels"


@dataclass(frozen=True, slots=True, config=WIRE)
class Stop:
    """Close all connections (CONNECTION_CLOSE with H3_NO_ERROR) and exit 0."""

    kind: Literal["Stop"] = "Stop"


Order = Equip | Keep | UseKeys | Roster | Configure | Activate | Drain | Resume | Abort | Move | SetLogLevels | Stop
