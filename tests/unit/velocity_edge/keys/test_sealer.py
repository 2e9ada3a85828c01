"""A sealer follows the table: what it sealed opens until its epoch is closed or gone, on every node with that epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.epoch_tables import table
from velocity_edge.keys.ring import LOGIN_COOKIE, SESSION_COOKIE
from velocity_edge.keys.sealer import Opened, Sealer


def test_what_one_sealed_another_with_the_same_keys_opens_for_the_same_purpose_only() -> None:
    sealed = Sealer(table(1, 2)).seal(SESSION_COOKIE, b"plain", b"host")
    other = Sealer(table(1, 2))
    assert other.open(SESSION_COOKIE, sealed, b"host") == Opened(b"plain", current=True)
    assert other.open(LOGIN_COOKIE, sealed, b"host") is None
    assert other.open(SESSION_COOKIE, sealed, b"another host") is None
    assert Sealer(table(1)).open(SESSION_COOKIE, sealed, b"host") is None


def test_a_rotation_keeps_what_was_sealed_and_marks_it_as_old() -> None:
    sealer = Sealer(table(1, 2))
    before = sealer.seal(SESSION_COOKIE, b"plain")
    sealer.use(table(1, 2, 3))
    assert sealer.open(SESSION_COOKIE, before) == Opened(b"plain", current=False)
    assert sealer.open(SESSION_COOKIE, sealer.seal(SESSION_COOKIE, b"x")) == Opened(b"x", current=True)


def test_a_closed_epoch_opens_nothing() -> None:
    sealer = Sealer(table(1, 2))
    before = sealer.seal(SESSION_COOKIE, b"plain")
    sealer.use(replace(table(1, 2, 3), closed=(2,), cid_live=(3,)))
    assert sealer.open(SESSION_COOKIE, before) is None


def test_without_keys_nothing_is_sealed() -> None:
    with pytest.raises(RuntimeError, match="no keys"):
        Sealer().seal(SESSION_COOKIE, b"plain")
