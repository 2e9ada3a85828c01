"""Every version finds each descriptor in its place, and hands back those that it does not know."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.wire.bundle import Bundle, MissingDescriptors, layout

counts = st.integers(0, 8)


@given(listeners=counts, slots=st.integers(1, 16), trailing=st.integers(0, 4), data=st.data())
def test_unpack_is_the_inverse_of_pack(listeners: int, slots: int, trailing: int, data: st.DataObject) -> None:
    for links in (None, slots):
        names = layout(listeners, links)
        descriptors = list(range(100, 100 + len(names) + trailing))
        bundle = Bundle.unpack(descriptors, listeners, links)
        assert bundle.pack() == descriptors
        by_name = dict(zip(names, descriptors, strict=False))
        assert by_name["receive"] == bundle.receive
        assert by_name["slab"] == bundle.slab
        assert [by_name[f"udp-{index}"] for index in range(listeners)] == list(bundle.sockets)
        assert [bundle.used_tokens, bundle.rate_cells, *bundle.more][:trailing] == descriptors[len(names) :]
        present = data.draw(st.integers(0, len(names) - 1))
        with pytest.raises(MissingDescriptors, match=rf"{names[present]}.* missing$"):
            Bundle.unpack(descriptors[:present], listeners, links)


@given(listeners=counts, slots=st.integers(1, 16), trailing=st.integers(0, 4), data=st.data())
def test_what_a_worker_returns_is_what_the_supervisor_keeps(
    listeners: int, slots: int, trailing: int, data: st.DataObject
) -> None:
    slot = data.draw(st.integers(0, slots - 1))
    equip = Bundle.unpack(list(range(listeners + 1 + slots + 1 + trailing)), listeners, slots)
    held = Bundle.unpack(equip.only_link(slot).pack(), listeners)
    assert held.send == (equip.send[slot],)
    assert (held.sockets, held.receive, held.slab) == (equip.sockets, equip.receive, equip.slab)
    assert (held.used_tokens, held.rate_cells, held.more) == (equip.used_tokens, equip.rate_cells, equip.more)


def test_the_order_is_that_of_0_1_0() -> None:
    """Written out as that version counts them; these lists never change, they only grow at their ends."""
    fd = count(3)
    udp, receive, links, slab, tokens = [next(fd), next(fd)], next(fd), [next(fd) for _ in range(4)], next(fd), next(fd)
    rates, later = next(fd), next(fd)
    equip = Bundle(tuple(udp), receive, tuple(links), slab, tokens, rates, (later,))
    assert equip.pack() == [*udp, receive, *links, slab, tokens, rates, later]
    assert equip.only_link(3).pack() == [*udp, receive, links[3], slab, tokens, rates, later]
    without_tokens = Bundle(tuple(udp), receive, (links[3],), slab)
    assert without_tokens.pack() == [*udp, receive, links[3], slab], "a slot in the service manager's store"
    assert layout(2) == ["udp-0", "udp-1", "receive", "send", "slab"]
    assert layout(1, 2) == ["udp-0", "receive", "send-0", "send-1", "slab"]


def test_an_error_names_the_missing_descriptors() -> None:
    with pytest.raises(MissingDescriptors, match=r"^2 of 5 descriptors .* 2 listeners: receive, send, slab missing$"):
        Bundle.unpack([3, 4], 2)


def test_later_additions_cannot_take_the_place_of_earlier_ones() -> None:
    for used_tokens, rates, more in ((None, None, (6,)), (None, 6, ()), (6, None, (7,))):
        with pytest.raises(ValueError, match="used tokens"):
            Bundle((), 3, (4,), 5, used_tokens, rates, more)
