"""Only addresses that the lists permit reach the handler, whatever form an address has."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from velocity_edge.config.middlewares.ip import IpLists
from velocity_edge.config.section import all_problems
from workers.http import Request, Response, plain
from workers.middleware.ip import IpFilter


def lists(**keys: Any) -> IpLists:
    return IpLists.model_validate({"name": "lists", "kind": "ip", **keys})


def status(section: IpLists, address: str | None, method: bytes = b"GET", early: bool = False) -> int:
    peer = (ipaddress.ip_address(address).packed, 1) if address else None
    request = Request(method, b"a.test", b"/", peer=peer, early=early)
    response = IpFilter(section).wrap(lambda _: plain(200))(request)
    assert isinstance(response, Response)
    assert method != b"HEAD" or response.body is None
    return response.status


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", 200),
        ("::ffff:192.0.2.1", 200),
        ("192.0.2.66", 403),
        ("::ffff:192.0.2.66", 403),
        ("198.51.100.1", 403),
        ("2001:db8::1", 200),
        ("2001:db9::1", 403),
        (None, 403),
    ],
)
def test_deny_takes_precedence_over_allow(address: str | None, expected: int) -> None:
    section = lists(allow=["192.0.2.0/24", "2001:db8::/32"], deny="192.0.2.64/26")
    assert status(section, address) == expected


def test_deny_alone_permits_others() -> None:
    section = lists(deny=["192.0.2.0/24"], status=404)
    assert (status(section, "192.0.2.9", b"HEAD"), status(section, "198.51.100.1")) == (404, 200)


def test_early_data_waits_for_the_handshake() -> None:
    """Its source address may be anybody's."""
    assert status(lists(deny="10.0.0.0/8"), "192.0.2.1", early=True) == 425


def test_lists_without_effect_are_refused() -> None:
    assert [text for _, text in all_problems(lists())] == [
        "cannot be empty together with deny: name a network in one of them"
    ]
    [(where, text)] = all_problems(lists(allow=["::ffff:10.0.0.0/104"]))
    assert where == ("allow", "0")
    assert text.endswith("expected 10.0.0.0/8")
