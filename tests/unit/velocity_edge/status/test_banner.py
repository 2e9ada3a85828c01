"""Invariant: the banner has every fact of the status that an operator needs after the start, and a command to try."""

from __future__ import annotations

from tests.support.pretend_admin import sample_status
from velocity_edge.status.banner import banner


def test_the_banner_has_addresses_dispatch_certificates_and_commands() -> None:
    text = banner(sample_status(), "velocity-edge")
    for part in (
        "https://0.0.0.0:4433/ (UDP, HTTP/3)",
        "tier B: eBPF on the sockets",
        "not tier C (xdp): no interface is named",
        "portable, 2 workers (the native engine is not here)",
        "X25519MLKEM768, SecP256r1MLKEM768, SecP384r1MLKEM1024, x25519",
        "SHA-256 AB:AB:",
        "velocity-edge client get --insecure https://localhost:4433/",
        "curl --http3-only --insecure https://localhost:4433/",
        "velocity-edge status",
    ):
        assert part in text
