"""Reports: the messages from a worker to the supervisor. The rules for their fields are in messages.py.

A worker reports facts; the supervisor decides from them and sends orders (orders.py).
"""

from __future__ import annotations

from dataclasses import field
from typing import Final, Literal

from pydantic.dataclasses import dataclass

from velocity_edge.wire.values import WIRE, Left

#: Grows when a message changes its meaning, never for a new field or kind. A worker states it first, in `Hello`.
PROTOCOL_VERSION: Final = 1
#: The oldest protocol that this version still speaks. Raising it ends adoption of older workers: they are killed.
OLDEST_PROTOCOL: Final = 1


@dataclass(frozen=True, slots=True, config=WIRE)
class Hello:
    """The first report: identity, protocol, and which engine serves packets and why.

    It is also the first report to another supervisor. A worker whose channel ends goes on serving and tries to connect
    to `Equip.successor_path` (SEQPACKET) every second. There it sends Hello again, with the `revision` that it serves
    and whether it is draining, then `Held` for its own slot and for each slot that it keeps. Orders continue from
    there.
    """

    worker_id: int
    pid: int
    engine: str
    engine_reason: str
    protocol_version: int = PROTOCOL_VERSION
    revision: int = 0
    draining: bool = False
    #: The version of its program, for display; "" from an older worker.
    version: str = ""
    #: The oldest protocol that the worker still speaks.
    oldest_protocol: int = 1
    kind: Literal["Hello"] = "Hello"


@dataclass(frozen=True, slots=True, config=WIRE)
class Held:
    """The descriptors of this slot, as in `Keep`, for the supervisor that the worker has just connected to."""

    slot: int
    kind: Literal["Held"] = "Held"


@dataclass(frozen=True, slots=True, config=WIRE)
class Prepared:
    """The worker can use this revision."""

    revision: int
    kind: Literal["Prepared"] = "Prepared"


@dataclass(frozen=True, slots=True, config=WIRE)
class Refused:
    """The worker cannot use this revision; `reason` is for the operator and begins with "cannot"."""

    revision: int
    reason: str
    kind: Literal["Refused"] = "Refused"


@dataclass(frozen=True, slots=True, config=WIRE)
class Ready:
    """The worker serves this revision."""

    revision: int
    kind: Literal["Ready"] = "Ready"


@dataclass(frozen=True, slots=True, config=WIRE)
class KeysInUse:
    """The acknowledgement of `UseKeys`: the worker has these epochs and seals with `seal_with`.

    `closed`: those of them that open nothing; None from an older worker.
    """

    epochs: list[int]
    seal_with: int
    closed: list[int] | None = None
    kind: Literal["KeysInUse"] = "KeysInUse"


@dataclass(frozen=True, slots=True, config=WIRE)
class Heartbeat:
    """Sent every second by the loop that serves packets, never by a helper thread.

    `connections_by_config`: CID config id -> connections that hold an id of it (one may hold ids of several); None
    from an older worker.
    """

    connections: int
    half_open: int
    requests: int
    loop_lag_ms: float
    rss_bytes: int
    connections_by_config: dict[int, int] | None = None
    #: Set only while draining.
    left: Left | None = None
    kind: Literal["Heartbeat"] = "Heartbeat"


@dataclass(frozen=True, slots=True, config=WIRE)
class Drained:
    """No connection is left. The deadline closed `cut` of them, on which `lost` requests were running."""

    lost: int
    cut: int = 0
    kind: Literal["Drained"] = "Drained"


@dataclass(frozen=True, slots=True, config=WIRE)
class Aborted:
    """The outcome of `Abort`: the connections that were closed, and the requests that ran on them."""

    connections: int
    requests: int
    kind: Literal["Aborted"] = "Aborted"


@dataclass(frozen=True, slots=True, config=WIRE)
class Measured:
    """Series that changed since the last such report, at most `MAX_MEASURED` of them: totals, not increments.

    To a supervisor that the worker has just connected to, all series, in several reports. The families, their labels
    and numbers are those of velocity_edge/status/families.py; a receiver ignores what it does not know.
    """

    #: Family -> (labels, numbers) of each series.
    series: dict[str, list[tuple[list[str], list[float]]]]
    #: Family -> labels of series whose subject is gone.
    gone: dict[str, list[list[str]]] = field(default_factory=dict)
    kind: Literal["Measured"] = "Measured"


#: Series in one `Measured`: about 32 KiB of JSON, so that one report delays others by less than a millisecond.
MAX_MEASURED: Final = 200

Report = Hello | Held | Prepared | Refused | Ready | KeysInUse | Heartbeat | Drained | Aborted | Measured


def speaks(hello: Hello) -> bool:
    """Return whether the worker and this version speak a common protocol."""
    return hello.protocol_version >= OLDEST_PROTOCOL and hello.oldest_protocol <= PROTOCOL_VERSION
