"""The messages between the supervisor and a worker, as packets: encoding, decoding, and the rules for versions.

One SOCK_SEQPACKET pair connects the supervisor with each worker: the kernel keeps packet boundaries, the death of a
peer is an end of file, and descriptors can travel along. A message is a frozen dataclass; on the wire it is JSON whose
"kind" is the class name, with bytes in base64. Orders go down (orders.py), reports go up (reports.py), and neither side
waits for an answer: the supervisor decides from the facts that workers report
(docs/architecture.md, "Messages without replies").

The two ends may be of different versions (an upgrade, a downgrade, files replaced under a running node), so messages
only grow (docs/adr/0007-versions-side-by-side.md):

- A new field has a default with the meaning of its absence, as an older peer does not send it. An unknown field is
  ignored.
- An unknown kind is ignored by the channel (`UnknownKind`); nothing that service needs may depend on it.
- New descriptors travel after the existing ones (bundle.py); a peer that does not know them keeps them open and hands
  them back.
- Existing fields and kinds keep their meaning. A change of meaning needs a new `PROTOCOL_VERSION`.

`decode_order` and `decode_report` raise `MessageError` and nothing else, whatever the bytes. Transport is in
channel.py. All messages can be imported from here.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeVar, get_args

from pydantic import Field, TypeAdapter, ValidationError

from velocity_edge.wire.orders import (
    Abort,
    Activate,
    Configure,
    Drain,
    Equip,
    Keep,
    Move,
    Order,
    Resume,
    Roster,
    SetLogLevels,
    Stop,
    UseKeys,
)
from velocity_edge.wire.reports import (
    MAX_MEASURED,
    OLDEST_PROTOCOL,
    PROTOCOL_VERSION,
    Aborted,
    Drained,
    Heartbeat,
    Held,
    Hello,
    KeysInUse,
    Measured,
    Prepared,
    Ready,
    Refused,
    Report,
    speaks,
)
from velocity_edge.wire.values import Epoch, KeyedChain, Left, Listener, OpenConnection

__all__ = [
    "EXIT_OUT_OF_MEMORY",
    "MAX_MEASURED",
    "OLDEST_PROTOCOL",
    "PROTOCOL_VERSION",
    "Abort",
    "Aborted",
    "Activate",
    "Configure",
    "Drain",
    "Drained",
    "Epoch",
    "Equip",
    "Heartbeat",
    "Held",
    "Hello",
    "Keep",
    "KeyedChain",
    "KeysInUse",
    "Left",
    "Listener",
    "Measured",
    "Message",
    "MessageError",
    "Move",
    "OpenConnection",
    "Order",
    "Prepared",
    "Ready",
    "Refused",
    "Report",
    "Resume",
    "Roster",
    "SetLogLevels",
    "Stop",
    "UnknownKind",
    "UseKeys",
    "decode_order",
    "decode_report",
    "encode",
    "speaks",
]

#: The exit status of a worker that could not allocate memory (EX_OSERR of sysexits.h).
EXIT_OUT_OF_MEMORY: Final = 71

Message = Order | Report


class MessageError(Exception):
    """A packet on the control channel that is not a message."""


class UnknownKind(MessageError):
    """A message of a kind that this version does not have. The peer is of another version; the channel stays open."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"a message of the unknown kind {kind}")
        self.kind = kind


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


_KINDS: Final = frozenset(kind.__name__ for kind in get_args(Message))
#: The form of a kind in every version; anything else is an invalid message.
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
    # A validation error quotes its input, which may be key material: show only the beginning of the packet.
    raise MessageError(f"not a message: {packet[:40]!r}")
