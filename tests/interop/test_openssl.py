"""OpenSSL's own QUIC (not ngtcp2) completes the documented handshake, on both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import sid
from tests.support.node import Node
from tests.support.peers import HYBRID_GROUPS, openssl

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _sid() -> None:
    sid.require("test")


def address(node: Node) -> str:
    return f"127.0.0.1:{node.port}"


def test_default_is_post_quantum(edge: Node) -> None:
    """s_client with default options: ALPN h3, X25519MLKEM768, a chain that verifies."""
    run = openssl(address(edge), ca=edge.ca)
    assert run.connected, run.log
    assert (run.alpn, run.group, run.hello_retry_request) == ("h3", "X25519MLKEM768", False)
    assert run.verified


@pytest.mark.parametrize("group", HYBRID_GROUPS)
def test_each_hybrid_group(edge: Node, group: str) -> None:
    """A client with one hybrid group gets that one."""
    assert openssl(address(edge), "-groups", group, ca=edge.ca).group == group


def test_hello_retry_request(edge: Node) -> None:
    """A first share of X25519, and X25519MLKEM768 without a share: the server sends a HelloRetryRequest."""
    run = openssl(address(edge), "-groups", "X25519:X25519MLKEM768", ca=edge.ca)
    assert (run.group, run.hello_retry_request) == ("X25519MLKEM768", True)


@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])
def test_each_cipher_suite(edge: Node, suite: str) -> None:
    """Each cipher suite of QUIC works when it is the only one."""
    assert openssl(address(edge), "-ciphersuites", suite, ca=edge.ca).cipher == suite


def test_unknown_alpn_is_refused(edge: Node) -> None:
    """No common ALPN: no connection (RFC 9001 section 8.1)."""
    assert not openssl(address(edge), ca=edge.ca, alpn="gopher").connected


def test_resumption(edge: Node, short_dir: Path) -> None:
    """A session saved by one process is resumed by others, more of them than there are workers."""
    session = short_dir / "session"
    assert not openssl(address(edge), ca=edge.ca, save_session=session).resumed
    for _ in range(3):
        # Each worker must open what another sealed. s_client uses one ticket for all: a server may allow that.
        run = openssl(address(edge), "-sess_in", str(session), ca=edge.ca)
        assert run.resumed, run.log
        assert run.group == "X25519MLKEM768", "resumption without a new key exchange"
