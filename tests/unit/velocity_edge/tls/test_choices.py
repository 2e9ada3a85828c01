"""The second ClientHello must equal the first one, except for the key share (RFC 8446 section 4.1.2)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.mutants import mutate
from velocity_edge.tls import choices
from velocity_edge.tls.alerts import Alert


def test_a_second_hello_that_asks_for_another_parameter_is_refused() -> None:
    class Hello:
        random, cipher_suites, versions, groups, signature_schemes = b"r", (1,), (2,), (3,), (4,)
        server_name, alpn = "a", (b"h3",)

    first: Any = Hello()
    choices.check_unchanged(first, Hello())  # type: ignore[arg-type]
    for name in ("random", "cipher_suites", "versions", "groups", "signature_schemes", "server_name", "alpn"):
        second: Any = Hello()
        setattr(second, name, "another")
        with pytest.raises(Alert, match=f"another {name}"):
            choices.check_unchanged(first, second)


def test_a_forgotten_parameter_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch, choices, '"server_name", "alpn"):', '"server_name"):', "check_unchanged")
    with pytest.raises(pytest.fail.Exception):
        test_a_second_hello_that_asks_for_another_parameter_is_refused()
