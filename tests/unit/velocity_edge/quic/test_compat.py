"""The installed aioquic is the one that our overrides were written against, and each override is on the list."""

from __future__ import annotations

import inspect

import pytest

from velocity_edge.client import connection as client
from velocity_edge.quic import compat
from velocity_edge.quic.portable import bounds, configuration, connection, h3, windows

MODULES = (client, bounds, configuration, connection, h3, windows)
OURS = [
    kind
    for module in MODULES
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if kind.__module__ == module.__name__ and any(base.__module__.startswith("aioquic.") for base in kind.__mro__)
]


def overrides(kind: type) -> set[str]:
    """What *kind* overrides of the nearest class of aioquic."""
    found = {}
    for base in reversed(kind.__mro__[1:]):
        for name, value in kind.__dict__.items():
            if name in base.__dict__ and (inspect.isfunction(value) or isinstance(value, property)):
                found[name] = f"{base.__module__}:{base.__qualname__}.{name}"
    return {name for name in found.values() if name.startswith("aioquic.")}


def test_nothing_has_drifted() -> None:
    assert compat.drift() == []


def test_the_classes_with_overrides_are_found() -> None:
    assert {kind.__name__ for kind in OURS} >= {"EdgeConnection", "SlidingWindows", "EdgeH3", "ClientConnection"}


def test_every_override_is_listed_and_nothing_else() -> None:
    assert set().union(*map(overrides, OURS)) == set(compat.OVERRIDDEN)


def test_drift_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compat.RELIED_ON, "aioquic.tls:verify_certificate", "000000000000")
    monkeypatch.setitem(compat.RELIED_ON, "aioquic.tls:nothing_like_this", "000000000000")
    assert [line.partition(": ")[0] for line in compat.drift()] == [
        "aioquic.tls:verify_certificate",
        "aioquic.tls:nothing_like_this",
    ]
