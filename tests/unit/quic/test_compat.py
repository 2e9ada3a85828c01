"""aioquic is the one we read, and every method that we override is in the contract."""

from __future__ import annotations

import importlib.metadata
import inspect

from velocity_edge.client.connection import ClientConnection, ClientH3
from velocity_edge.quic import compat
from velocity_edge.quic.portable.congestion import EdgeCubic, EdgeReno
from velocity_edge.quic.portable.connection import EdgeConnection
from velocity_edge.quic.portable.h3 import EdgeH3
from velocity_edge.quic.portable.windows import SlidingWindows


def test_the_installed_aioquic_is_the_one_that_was_reviewed() -> None:
    assert importlib.metadata.version("aioquic") == compat.AIOQUIC_VERSION
    assert compat.changed() == [], "read both versions of these methods, then update the table in compat.py"


def test_every_override_is_in_the_contract() -> None:
    for ours in (EdgeConnection, SlidingWindows, ClientConnection, EdgeH3, ClientH3, EdgeCubic, EdgeReno):
        for name, function in vars(ours).items():
            if not inspect.isfunction(function):
                continue
            for base in ours.__mro__[1:]:
                if base.__module__.startswith("aioquic.") and name in vars(base):
                    known = compat.CONTRACT.get(f"{base.__module__}.{base.__qualname__}", {})
                    assert name in known, f"{ours.__name__}.{name} overrides {base.__qualname__}.{name}"
