"""The descriptors of slots outlive workers and supervisors."""

import os
import time

from supervisor.machine.slots import Slot, Slots
from velocity_edge.quic import single_use
from velocity_edge.quic.single_use import UsedTokens
from velocity_edge.wire import rate_cells, slab
from velocity_edge.wire.bundle import Bundle
from velocity_edge.wire.messages import Listener

LOOPBACK = Listener("127.0.0.1", 0)


def test_slots_are_restored_from_their_descriptors() -> None:
    slots = Slots.open([LOOPBACK, LOOPBACK], cores=2)
    try:
        assert len(slots) == 4
        assert len(slots.equipment(3)) == 2 + 1 + 4 + 1 + 2
        slots[3].slab.add({"requests": 5})
        copies = [os.dup(fd) for fd in slots[3].bundle.pack()]
        back = Slot.of(Bundle.unpack(copies, 2), 3)
        assert back.slab.read()["requests"] == 5
        assert [s.getsockname() for s in back.udp] == [s.getsockname() for s in slots[3].udp]
        back.link_send.send(b"stray")
        assert slots[3].link_receive.recv(10) == b"stray"
        back.close()
    finally:
        slots.close()


def used_tokens_of(slots: Slots) -> list[int]:
    """Return the inode of the used tokens that each slot carries."""
    carried = [[fd for fd in slot.bundle.pack() if single_use.is_ours(fd)] for slot in slots]
    assert carried == [[slot.used_tokens] for slot in slots]
    return [os.fstat(fds[0]).st_ino for fds in carried]


def rates_of(slots: Slots) -> list[int]:
    """Return the inode of the counts of rate limits that each slot carries."""
    carried = [[fd for fd in slot.bundle.pack() if rate_cells.is_ours(fd)] for slot in slots]
    assert carried == [[slot.rate_cells] for slot in slots]
    return [os.fstat(fds[0]).st_ino for fds in carried]


def test_all_slots_share_one_memory_that_outlives_the_supervisor() -> None:
    """Also with slots from workers of a version that does not have them, and with a slot that is opened anew."""
    slots = Slots.open([LOOPBACK], cores=2)
    [before], [rates] = set(used_tokens_of(slots)), set(rates_of(slots))
    equipped = [os.fstat(fd).st_ino for fd in slots.equipment(2)]
    assert equipped.count(before) == 1
    held = {}
    for number in (0, 1, 2):
        copies = [os.dup(fd) for fd in slots[number].bundle.pack()]
        for _ in range(number):  # one knows no rates, one neither rates nor used tokens
            os.close(copies.pop())
        held[number] = Slot.of(Bundle.unpack(copies, 1), number)
    again, missing = Slots.adopt(slots.listeners, 2, held)
    assert missing == [3]
    assert (set(used_tokens_of(again)), set(rates_of(again))) == ({before}, {rates})
    for each in (again, slots):
        each.close()


def test_a_node_that_lost_its_used_tokens_rejects_earlier_ones() -> None:
    slots = Slots.open([LOOPBACK], cores=1)
    held = {}
    for number, slot in enumerate(slots):
        copies = [os.dup(fd) for fd in slot.bundle.pack()]
        for fd in (copies.pop(), copies.pop()):
            os.close(fd)
        held[number] = Slot.of(Bundle.unpack(copies, 1), number)
    issued_s = time.time()
    again, _ = Slots.adopt(slots.listeners, 1, held)
    assert set(used_tokens_of(again)).isdisjoint(used_tokens_of(slots))
    assert set(rates_of(again)).isdisjoint(rates_of(slots))
    used = UsedTokens(os.dup(again[0].used_tokens or 0))
    assert not used.first_use(bytes(12), issued_s - 0.01, issued_s)
    assert used.first_use(bytes(12), issued_s + 1, issued_s + 1)
    for each in (used, again, slots):
        each.close()


def test_a_slab_of_another_version_is_used_and_replaced_for_the_next_worker() -> None:
    slots = Slots.open([LOOPBACK], cores=1)
    try:
        old = slab.create("old", ("requests", "from_the_future", "connections"))
        copies = [os.dup(fd) for fd in slots[1].bundle.pack()]
        for fd in (copies.pop(), copies.pop(), copies.pop()):
            os.close(fd)  # the rates, the used tokens and the slab
        extra = os.memfd_create("of a later version")
        back = Slot.of(Bundle.unpack([*copies, old, extra], 1), 1)
        worker = slab.Slab(old)
        worker.add({"requests": 5})
        worker.set({"connections": 3})
        assert back.slab.read()["requests"] == 5
        assert back.bundle.pack()[-2:] == [old, extra], "unknown descriptors are kept for a later version"
        assert back.renew_slab(1)
        assert not back.renew_slab(1), "a slab is renewed once"
        cells = back.slab.read()
        assert (cells["requests"], cells["connections"], back.slab.current) == (5, 0, True)
        back.close()
        worker.close()
    finally:
        slots.close()
