"""A session ticket opens during its lifetime, and not before it was issued, apart from clock skew."""

from __future__ import annotations

import pytest

from velocity_edge.keys.ring import TICKET, KeyRing
from velocity_edge.keys.table import first_table
from velocity_edge.tls.tickets import CLOCK_SKEW_S, Tickets, TicketState

TABLE = first_table(b"r" * 32, 0.0)
ISSUED_S = 1_700_000_000.0


def tickets(lifetime_s: int = 3600) -> Tickets:
    return Tickets(KeyRing(TABLE, TICKET), lifetime_s)


def sealed(by: Tickets, *, early_data: bytes = b"", alpn: bytes = b"h3") -> bytes:
    return by.seal(
        suite_id=0x1301,
        secret=bytes(range(32)),
        age_add=7,
        server_name="velocity.test",
        alpn=alpn,
        early_data=early_data,
        now_s=ISSUED_S,
    )


def test_a_ticket_opens_to_what_was_sealed() -> None:
    ours = tickets()
    ticket = sealed(ours, early_data=b"abcd")
    nonce = KeyRing.nonce_of(ticket)
    expected = TicketState(0x1301, 7, ISSUED_S, b"abcd", bytes(range(32)), "velocity.test", b"h3", nonce)
    assert ours.open(ticket, ISSUED_S) == expected


@pytest.mark.parametrize(
    ("age_s", "opens"),
    [
        (0.0, True),
        (3600.0, True),
        (3600.1, False),
        (-CLOCK_SKEW_S, True),
        # The future, by more than two clocks may differ: a clock that was ahead issued it, and it would live too long.
        (-CLOCK_SKEW_S - 0.1, False),
        (-86_400.0, False),
        (-1e9, False),
    ],
)
def test_lifetime_of_a_ticket(age_s: float, opens: bool) -> None:
    ours = tickets()
    assert (ours.open(sealed(ours), ISSUED_S + age_s) is not None) == opens


def test_no_lifetime_is_longer_than_a_week() -> None:
    """RFC 8446 section 4.6.1."""
    ours = tickets(10**9)
    assert ours.lifetime_s == 604_800
    assert ours.open(sealed(ours), ISSUED_S + 604_801) is None


@pytest.mark.parametrize("at", [0, 4, 20, -1])
def test_a_changed_ticket_does_not_open(at: int) -> None:
    ours = tickets()
    changed = bytearray(sealed(ours))
    changed[at] ^= 1
    assert ours.open(bytes(changed), ISSUED_S) is None
    assert ours.open(b"", ISSUED_S) is None
