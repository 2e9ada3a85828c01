"""Everything the supervisor and a worker say to each other.

One SOCK_SEQPACKET pair per worker: the kernel keeps the boundaries, a peer's death is an end of file, descriptors can
travel along. A message is a frozen dataclass; on the wire it is JSON whose "kind" is the class name, bytes are base64.
Orders go down, reports go up, and neither side waits for an answer: the supervisor decides from the facts that workers
report (docs/architecture.md, "Nobody waits").

The two ends may be of different versions (an upgrade, a way back, files replaced under a running node), so messages
only grow (docs/adr/0007-versions-side-by-side.md):

- A new field has a default, which is what an older peer meant by not saying it. A field that we do not know is ignored.
- A kind that we do not know is ignored by the channel (`UnknownKind`); nothing that service needs may depend on it.
- New descriptors travel after those that were there; who does not know them keeps them open and hands them back.
- Nothing that exists changes its meaning. If it must, `PROTOCOL_VERSION` says so.

`decode_*` raise `MessageError` and nothing else, whatever the bytes. How packets travel is in channel.py.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

#: Grows when a message changes its meaning, never for a new field or kind. A worker states it first, in `Hello`.
PROTOCOL_VERSION: Final = 1
#: The oldest protocol that we still speak. Raising it ends adoption of workers that are older: they are killed.
OLDEST_PROTOCOL: Final = 1

#: What a worker exits with when it got no memory (EX_OSERR of sysexits.h).
EXIT_OUT_OF_MEMORY: Final = 71

_WIRE: Final = ConfigDict(extra="ignore", ser_json_bytes="base64", val_json_bytes="base64")


class MessageError(Exception):
    """A packet on the control channel that is not one of our messages."""


class UnknownKind(MessageError):
    """A message of a kind that this version does not have: from a peer of another version, and no reason to part."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"a message of the unknown kind {kind}")
        self.kind = kind


# --- what travels inside messages ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, config=_WIRE)
class Listener:
    """An address that is served. `port` is the bound one, also where 0 was asked for."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, config=_WIRE)
class Epoch:
    """One row of the epoch table (velocity_edge/keys/table.py): the root of every key of that epoch."""

    epoch: int
    created_s: float
    root: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, config=_WIRE)
class KeyedChain:
    """A certificate chain (PEM, leaf first), its private key (PEM), and the ALPNs that may see it (None: everybody)."""

    name: str
    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)
    audience: list[str] | None = None


@dataclass(frozen=True, slots=True, config=_WIRE)
class OpenConnection:
    """A connection that is still there: the site its client asked for (SNI), its age, its running requests."""

    site: str
    age_s: float
    requests: int


@dataclass(frozen=True, slots=True, config=_WIRE)
class Left:
    """What is left of a worker that drains. `told`: connections that have both their GOAWAYs; `oldest`: a few."""

    told: int
    #: Requests that run, on all connections.
    running: int
    oldest: list[OpenConnection]


# --- supervisor -> worker: orders ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, config=_WIRE)
class Equip:
    """Your sockets. Descriptors travel along, in this order:

    one UDP socket per listener; the receiving end of your hand-over link; one sending end per slot of the node
    (yours included, so that the index is the slot); the slab of your counters; the node's used tokens
    (quic/single_use.py), not from an older supervisor. What comes after these is for a later version: hand it back with
    `Held`.

    When the channel ends, look for another supervisor at `successor_path` (see `Hello`).
    """

    node_id: int
    listeners: list[Listener]
    slots: int
    successor_path: str = ""
    kind: Literal["Equip"] = "Equip"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Keep:
    """Keep the descriptors of another slot, unread, for a supervisor that comes after this one (`Held`).

    It is the other one of your core; and, beside it, those of cores that nobody serves.

    Descriptors travel along, in this order: one UDP socket per listener; the receiving end of its hand-over link; the
    sending end of it; its slab; the node's used tokens; what a later version may add. Nobody else would hold the
    sockets of a free slot when the supervisor dies, and a socket that closes renumbers its group.
    """

    slot: int
    kind: Literal["Keep"] = "Keep"


@dataclass(frozen=True, slots=True, config=_WIRE)
class UseKeys:
    """The epoch table, newest first. All of them open but the `closed`; `seal_with` names the epoch that seals.

    A key is in this table everywhere before anyone is told to seal with it. `cid_epochs`: those whose connection IDs
    decode; empty from a supervisor that does not say: the one that seals and its neighbour.
    """

    epochs: list[Epoch]
    seal_with: int
    cid_epochs: list[int] = field(default_factory=list)
    closed: list[int] = field(default_factory=list)
    kind: Literal["UseKeys"] = "UseKeys"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Roster:
    """Who is alive: worker id -> slot. Whoever is not in it is gone; its strays get a stateless reset.

    Ids are lent in turn, and those from `unborn_from` on were not lent when this was said (0: not said). A worker whose
    loop stood still may meet a packet of such an owner before it reads of its birth: that is lost, never reset.
    """

    workers: dict[int, int]
    unborn_from: int = 0
    kind: Literal["Roster"] = "Roster"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Configure:
    """Prepare this revision and answer `Prepared` or `Refused`; nothing changes yet.

    `config` is the resolved configuration (velocity_edge/config/model.py) as JSON. `chains` hold what the worker may
    not read from disk. One descriptor per entry of `roots` travels along: the opened root directories of static sites.
    """

    revision: int
    config: dict[str, Any]
    chains: list[KeyedChain]
    roots: list[str]
    kind: Literal["Configure"] = "Configure"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Activate:
    """New requests use this revision from now on. The first one makes a worker serve."""

    revision: int
    kind: Literal["Activate"] = "Activate"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Drain:
    """Take no new connection, send GOAWAY over `spread_s`, report `Drained` when empty, close the rest at the deadline.

    With `discourage` new connections are still taken: those that are here are asked to leave, and
    nothing is reported. While a drain is under way, another order changes its deadline and its kind; who has been told
    stays told, and `Drained` is said again.
    """

    deadline_s: float
    spread_s: float = 0.0
    discourage: bool = False
    kind: Literal["Drain"] = "Drain"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Resume:
    """The opposite of `Drain`, while still draining."""

    kind: Literal["Resume"] = "Resume"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Abort:
    """Close the connections that are older than this, in seconds, and report `Aborted`."""

    age_s: float
    kind: Literal["Abort"] = "Abort"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Move:
    """Have the connections that hold ids of these epochs change to new ids, or leave; spread over `spread_s`.

    It ends when no such connection is left, or with the next `Move`.
    """

    epochs: list[int]
    spread_s: float
    kind: Literal["Move"] = "Move"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Stop:
    """Close what is left (CONNECTION_CLOSE, H3_NO_ERROR) and exit 0."""

    kind: Literal["Stop"] = "Stop"


# --- worker -> supervisor: reports ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, config=_WIRE)
class Hello:
    """First words: who I am, which protocol I speak, what serves packets here and why.

    Also the first words to another supervisor: a worker whose channel ends goes on serving and tries to connect to
    `Equip.successor_path` (SEQPACKET) every second. There it says Hello again, with the `revision` that it serves and
    whether it is draining, then `Held` for its own slot and for the one it keeps. Orders go on from there.
    """

    worker_id: int
    pid: int
    engine: str
    engine_reason: str
    protocol_version: int = PROTOCOL_VERSION
    revision: int = 0
    draining: bool = False
    #: Of its program, for people; "" from one that does not say it.
    version: str = ""
    #: The oldest protocol that it still speaks.
    oldest_protocol: int = 1
    kind: Literal["Hello"] = "Hello"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Held:
    """The descriptors of this slot, in the order of `Keep`, for the supervisor that I just connected to."""

    slot: int
    kind: Literal["Held"] = "Held"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Prepared:
    """I could use this revision."""

    revision: int
    kind: Literal["Prepared"] = "Prepared"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Refused:
    """I cannot use this revision; `reason` is for the operator and begins with "cannot"."""

    revision: int
    reason: str
    kind: Literal["Refused"] = "Refused"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Ready:
    """I serve this revision."""

    revision: int
    kind: Literal["Ready"] = "Ready"


@dataclass(frozen=True, slots=True, config=_WIRE)
class KeysInUse:
    """I hold these epochs and seal with that one: the acknowledgement of `UseKeys`.

    `closed`: those of them that open nothing; None from a worker that does not know of it.
    """

    epochs: list[int]
    seal_with: int
    closed: list[int] | None = None
    kind: Literal["KeysInUse"] = "KeysInUse"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Heartbeat:
    """Sent every second by the loop that serves packets, never by a helper thread.

    `connections_by_config`: CID config id -> connections that hold an id of it (one may hold ids of several); None
    from a worker that does not count them.
    """

    connections: int
    half_open: int
    requests: int
    loop_lag_ms: float
    rss_bytes: int
    connections_by_config: dict[int, int] | None = None
    #: Only while draining.
    left: Left | None = None
    kind: Literal["Heartbeat"] = "Heartbeat"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Drained:
    """No connection is left. The deadline closed `cut` of them, with `lost` requests running."""

    lost: int
    cut: int = 0
    kind: Literal["Drained"] = "Drained"


@dataclass(frozen=True, slots=True, config=_WIRE)
class Aborted:
    """I closed so many connections, on which so many requests ran: the answer to `Abort`."""

    connections: int
    requests: int
    kind: Literal["Aborted"] = "Aborted"


Order = Equip | Keep | UseKeys | Roster | Configure | Activate | Drain | Resume | Abort | Move | Stop
Report = Hello | Held | Prepared | Refused | Ready | KeysInUse | Heartbeat | Drained | Aborted
Message = Order | Report

T = TypeVar("T")

_ORDERS: Final[TypeAdapter[Order]] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])
_REPORTS: Final[TypeAdapter[Report]] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])
_MESSAGES: Final[TypeAdapter[Message]] = TypeAdapter(Annotated[Message, Field(discriminator="kind")])


def encode(message: Message) -> bytes:
    """Return the packet for *message*."""
    return _MESSAGES.dump_json(message)


def decode_order(packet: bytes) -> Order:
    """Return the order in *packet*, or raise `MessageError`."""
    return _decode(_ORDERS, packet)


def decode_report(packet: bytes) -> Report:
    """Return the report in *packet*, or raise `MessageError`."""
    return _decode(_REPORTS, packet)


def speaks(hello: Hello) -> bool:
    """Return whether this worker and we understand each other: the ranges of protocols meet."""
    return hello.protocol_version >= OLDEST_PROTOCOL and hello.oldest_protocol <= PROTOCOL_VERSION


_KINDS: Final = frozenset(kind.__name__ for kind in get_args(Message))
#: What the name of a kind looks like; anything else is no message of any version.
_KIND: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,39}")


def _decode(adapter: TypeAdapter[T], packet: bytes) -> T:
    try:
        return adapter.validate_json(packet)
    except ValidationError as error:
        [first, *_] = error.errors(include_url=False, include_input=False)
        kind = first.get("ctx", {}).get("tag")
        if first["type"] == "union_tag_invalid" and kind not in _KINDS and _KIND.fullmatch(str(kind)):
            raise UnknownKind(str(kind)) from None
    except (ValueError, RecursionError):
        pass
    # A validation error quotes its input, which may be key material: show only where a message begins.
    raise MessageError(f"not a message: {packet[:40]!r}")
