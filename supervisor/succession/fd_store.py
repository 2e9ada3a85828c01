"""The slots' descriptors in the service manager's store, for the case that supervisor and workers die together.

    velocity-SLOT-udp-LISTENER   velocity-SLOT-receive   velocity-SLOT-send   velocity-SLOT-slab

Every descriptor has its own name, because the manager returns them in any order. A successor uses the descriptors of a
slot that workers held; where no worker held them, those of the store; where these do not fit the listeners, they are
removed before anything is bound, because a copy left in the store would stay in the reuseport group and get its share
of the packets.

The store is for crashes. At an orderly stop only the current slots stay, and only when the service manager asked for
the stop (SIGTERM): on `stop` it closes them, on `restart` it passes them to the next process, and clients that connect
meanwhile wait instead of getting "port unreachable".
"""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from supervisor.machine.slots import Slot, Slots
from supervisor.machine.systemd import ServiceManager
from velocity_edge.wire.bundle import Bundle, layout
from velocity_edge.wire.messages import Listener

log = logging.getLogger("supervisor")

#: systemd ignores notifications of a process that exits before they are read. That takes milliseconds; wait no longer.
_NOTIFY_S: Final = 1.0

_NAME: Final = re.compile(r"velocity-(\d{1,5})-(?:udp-(\d{1,3})|receive|send|slab)")


def names(slot: int, listeners: int) -> list[str]:
    """Return the names of a slot's descriptors, in their order (velocity_edge/wire/bundle.py)."""
    return [f"velocity-{slot}-{part}" for part in layout(listeners)]


def complete(kept: Iterable[str]) -> dict[int, int]:
    """Return slot -> how many listeners it has, for every slot whose descriptors are complete."""
    found = set(kept)
    slots: dict[int, int] = {}
    for name in found:
        if (match := _NAME.fullmatch(name)) and match[2] is not None:
            slot = int(match[1])
            slots[slot] = max(slots.get(slot, 0), int(match[2]) + 1)
    return {slot: listeners for slot, listeners in sorted(slots.items()) if found.issuperset(names(slot, listeners))}


class Store:
    """What the service manager keeps of this node."""

    def __init__(self, manager: ServiceManager, received: Sequence[tuple[str, int]]) -> None:
        self._manager = manager
        self._kept: dict[str, int] = {}
        self._names: set[str] = set()
        for name, fd in received:
            if _NAME.fullmatch(name) and name not in self._kept:
                self._kept[name] = fd
                self._names.add(name)
            else:
                log.warning("the service manager passed an unexpected descriptor: %s", name or "no name")
                os.close(fd)

    def take(
        self, fits: Callable[[list[Listener]], bool], slots: int, held: Mapping[int, Slot] | None = None
    ) -> dict[int, Slot]:
        """Return the slots that can be used: complete, numbered below *slots*, bound to listeners that *fits* takes.

        *held* slots came back from workers and take precedence. All other kept descriptors are closed, here and there.
        """
        held = held or {}
        taken: dict[int, Slot] = {}
        useless: list[str] = []
        for slot, listeners in complete(self._kept).items():
            wanted = names(slot, listeners)
            bundle = Bundle.unpack([self._kept[name] for name in wanted], listeners)
            if slot in held:
                pairs = zip(wanted, held[slot].bundle.pack(), strict=False)
                useless += [name for name, fd in pairs if not os.path.sameopenfile(self._kept[name], fd)]
                for name in wanted:
                    os.close(self._kept.pop(name))
            elif slot < slots and fits(_addresses(bundle.sockets)):
                taken[slot] = Slot.of(bundle, slot)
                if taken[slot].slab_fd != bundle.slab:
                    useless.append(wanted[-1])  # the slab, of another version
                for name in wanted:
                    del self._kept[name]
        self._give_up([*useless, *self._kept])
        if (useless or self._kept) and not self._manager.wait():
            log.warning("the service manager did not confirm that it closed the descriptors of an earlier node")
        for fd in self._kept.values():
            os.close(fd)
        self._kept.clear()
        return taken

    def keep(self, slots: Slots, reopened: Iterable[int] = ()) -> str:
        """Have the descriptors of all slots kept; return what prevents that, in a sentence, or nothing.

        *reopened*: slots whose descriptors are new while others may be kept under their names.
        """
        if not self._manager.address:
            return ""
        for number in reopened:
            for name in names(number, len(slots.listeners)):
                self._manager.remove(name)
        wanted = 0
        for number, slot in enumerate(slots):
            for name, fd in zip(names(number, len(slots.listeners)), slot.bundle.pack(), strict=False):
                if not self._manager.store(name, fd):
                    return f"the service manager does not take descriptors ({self._manager.address})"
                self._names.add(name)
                wanted += 1
        size = self._manager.store_size
        if size is not None and size < wanted:
            return (
                f"the service manager keeps {size} descriptors of {wanted}: when supervisor and workers die together, "
                f"packets that wait are lost; expected FileDescriptorStoreMax={wanted} or more"
            )
        return ""

    def renew_slab(self, slot: int, slab_fd: int) -> None:
        """Replace the slab of a slot."""
        name = f"velocity-{slot}-slab"
        if name in self._names:
            self._manager.remove(name)
            self._manager.store(name, slab_fd)

    def release(self, current: int) -> None:
        """The node stops for its service manager: keep the slots below *current*, remove the others."""
        self._give_up({name for name in self._names if int(name.split("-")[1]) >= current})
        self._manager.wait(_NOTIFY_S)

    def clear(self) -> None:
        """The node stops for good: remove all."""
        self._give_up(self._names)
        self._manager.wait(_NOTIFY_S)

    def _give_up(self, unwanted: Iterable[str]) -> None:
        gone = list(unwanted)
        for name in gone:
            self._manager.remove(name)
        self._names.difference_update(gone)


def _addresses(fds: Iterable[int]) -> list[Listener]:
    """Return where UDP sockets are bound; nothing when a descriptor is not a UDP socket."""
    found = []
    for fd in fds:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return []
        with socket.socket(fileno=os.dup(fd)) as sock:
            if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
                return []
            host, port = sock.getsockname()[:2]
            found.append(Listener(host, port))
    return found


def fits(wanted: Sequence[Listener], bound: Sequence[Listener]) -> bool:
    """Whether sockets that are *bound* serve the *wanted* listeners; port 0 is any."""
    return len(wanted) == len(bound) and all(
        want.host == have.host and want.port in (0, have.port) for want, have in zip(wanted, bound, strict=True)
    )
