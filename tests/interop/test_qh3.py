"""qh3 (an HTTP/3 library with its own cryptography in Rust) gets a response with a post-quantum key exchange."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.node import Node
from tests.support.peers import qh3_get

pytestmark = [pytest.mark.interop, pytest.mark.slow]


def test_get(edge: Node, site: Path) -> None:
    """The body is complete, and the node counted one more X25519MLKEM768 handshake."""
    before = edge.status()["counters"]["handshakes_x25519mlkem768"]
    answer = qh3_get("127.0.0.1", edge.port, "/letters.txt", ca=edge.ca)
    assert (answer.status, answer.body) == (200, (site / "letters.txt").read_bytes())
    edge.counter("handshakes_x25519mlkem768", at_least=before + 1)


def test_big(edge: Node, site: Path) -> None:
    """20 MB through another implementation's flow control."""
    assert qh3_get("127.0.0.1", edge.port, "/big", ca=edge.ca).body == (site / "big").read_bytes()
