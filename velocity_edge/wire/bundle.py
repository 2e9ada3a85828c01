"""The descriptors of a slot and their order: the one place that knows how they travel and how they are named.

    Equip        udp-0 … udp-L   receive   send-0 … send-N   slab   [used tokens]   [rate cells]   [more]
    Keep, Held   udp-0 … udp-L   receive   send              slab   [used tokens]   [rate cells]   [more]
    fd store     as Keep up to the slab, each named velocity-SLOT-PART (supervisor/succession/fd_store.py)

One socket per listener; the receiving end of the slot's hand-over link; its sending end (`Equip`: of every slot of the
node, so that the index is the slot); the slab of counters (slab.py); the node's used tokens (quic/single_use.py) and
the counts of its rate limits (rate_cells.py), which an older supervisor does not send. What follows is from a later
version: it is kept open and handed back in its place.

Supervisor and worker may be of different versions, so this order never changes and new descriptors go to the end
(docs/adr/0007-versions-side-by-side.md). This file counts and names; opening and closing are left to the supervisor's
slots (supervisor/machine/slots.py) and to the worker's equipment (workers/serve/serving.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Self


class MissingDescriptors(Exception):
    """Fewer descriptors than every version sends."""


def layout(listeners: int, links: int | None = None) -> list[str]:
    """Return the names of the parts that every version sends, in order.

    *links*: the number of slots whose sending ends are included (`Equip`); None: only that of the slot itself.
    """
    send = ["send"] if links is None else [f"send-{slot}" for slot in range(links)]
    return [*(f"udp-{index}" for index in range(listeners)), "receive", *send, "slab"]


@dataclass(frozen=True, slots=True)
class Bundle:
    """The descriptors of one slot. It does not own them: its user opens and closes them."""

    #: One per listener.
    sockets: tuple[int, ...]
    receive: int
    #: The sending end of the slot's own link; in `Equip` one per slot of the node.
    send: tuple[int, ...]
    slab: int
    used_tokens: int | None = None
    rate_cells: int | None = None
    #: Of a later version.
    more: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        known = (self.used_tokens, self.rate_cells)
        if None in known and (self.more or self.rate_cells is not None):
            raise ValueError("a later descriptor would take the place of the used tokens or the rate cells")

    def pack(self) -> list[int]:
        """Return the descriptors in the order in which they travel."""
        shared = [fd for fd in (self.used_tokens, self.rate_cells) if fd is not None]
        return [*self.sockets, self.receive, *self.send, self.slab, *shared, *self.more]

    @classmethod
    def unpack(cls, descriptors: Sequence[int], listeners: int, links: int | None = None) -> Self:
        """Return the bundle in *descriptors*; *links* as in `layout`. Raises `MissingDescriptors`, which names them."""
        names = layout(listeners, links)
        if missing := names[len(descriptors) :]:
            raise MissingDescriptors(
                f"{len(descriptors)} of {len(names)} descriptors of a slot with {listeners} listeners: "
                f"{', '.join(missing)} missing"
            )
        rest = iter(descriptors)
        sockets = tuple(islice(rest, listeners))
        receive = next(rest)
        send = tuple(islice(rest, 1 if links is None else links))
        slab = next(rest)
        return cls(sockets, receive, send, slab, next(rest, None), next(rest, None), tuple(rest))

    def only_link(self, slot: int) -> Self:
        """Return the bundle of an `Equip` as `Held` wants it: with the sending end of this slot alone."""
        return replace(self, send=(self.send[slot],))
