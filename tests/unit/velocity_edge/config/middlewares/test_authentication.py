"""Sections of authentication: what would let anybody in, or nobody, is refused with its place before it is served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from velocity_edge.config.load import load
from velocity_edge.config.middlewares.identity import is_permitted
from velocity_edge.config.needs import files_of
from velocity_edge.errors import ConfigError

FILE = """\
server: {{tls: {{self_signed: true}}}}
content:
  middlewares:
    - {{name: m, everywhere: true, {text}}}
  routes: [{{match: {{path: /}}, action: {{type: static}}}}]
"""
OIDC = "kind: oidc, issuer: https://auth.example.com, client_id: edge"


def loaded(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "serve.yaml"
    file.write_text(FILE.format(text=text))
    return load(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: jwt", "kind: cannot verify tokens with 0 sources of keys: expected one of jwks_url"),
        ("kind: jwt, jwks: k, key: k", "kind: cannot verify tokens with 2 sources"),
        ("kind: jwt, jwks: k, algorithms: none", "algorithms: cannot use 'none'"),
        ("kind: jwt, jwks: k, algorithms: HS256", "algorithms: cannot use HS256 with jwks"),
        ("kind: jwt, jwks: k, algorithms: []", "algorithms: cannot use none with jwks"),
        ("kind: jwt, secret_file: s", "algorithms: cannot use RS256, PS256, ES256, EdDSA with secret_file"),
        ("kind: jwt, secret_file: s, algorithms: [HS256, ES256]", "algorithms: cannot use ES256 with secret_file"),
        ("kind: jwt, jwks_url: 'http://keys.example.com/'", "jwks_url: cannot use 'http://keys.example.com/'"),
        ("kind: jwt, jwks_url: 'file:///etc/passwd'", "jwks_url: cannot use 'file:///etc/passwd'"),
        ("kind: jwt, jwks_url: 'https://a:b@keys.example.com/'", "jwks_url: cannot use"),
        ("kind: jwt, jwks: k, leeway: 1h", "leeway: cannot be more than 10 minutes"),
        ("kind: jwt, jwks: k, forward: {sub: host}", "forward.sub: cannot use 'host': this field frames"),
        ("kind: jwt, jwks: k, forward: {sub: 'x y'}", "forward.sub: cannot use 'x y': must be a field name"),
        ("kind: oidc, issuer: https://a.test", "client_id: cannot be left out"),
        ("kind: oidc, client_id: edge, issuer: http://auth.example.com", "issuer: cannot use 'http://auth"),
        (f"{OIDC}, session: 1s", "session: cannot be used: expected 1m to 30d"),
        (f"{OIDC}, redirect_path: /x, logout_path: /x", "logout_path: cannot be the same as redirect_path"),
        (f"{OIDC}, redirect_path: '/x?y'", "redirect_path"),
        (f"{OIDC}, after_logout: //evil.example.com", "after_logout"),
        (f"{OIDC}, client_secret: a, client_secret_file: b", "client_secret_file: cannot be combined"),
        (f"{OIDC}, algorithms: HS256", "algorithms: cannot use 'HS256'"),
        ("kind: oidc, client_id: edge, issuer: 'https://a.test/?x'", "issuer: cannot have a query"),
        ("kind: basic", "users: cannot be left out"),
        ("kind: basic, users: u, realm: 'a\"b'", "realm"),
        ("kind: forward_auth, url: http://auth.example.com/", "url: cannot use 'http://auth.example.com/'"),
        ("kind: forward_auth, url: 'http://127.0.0.1/', trust: 302", "trust"),
        ("kind: forward_auth, url: 'http://127.0.0.1/', copy: content-length", "copy: cannot use 'content-length'"),
        ("kind: forward_auth, url: 'http://127.0.0.1/', timeout: 0s", "timeout: cannot be used"),
    ],
)
def test_what_cannot_protect_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert f"content.middlewares[0].{said}" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "kind: jwt, jwks_url: 'https://keys.example.com/'",
        "kind: jwt, jwks_url: 'http://localhost:8080/'",
        "kind: jwt, jwks_url: 'http://[::1]:8080/'",
        "kind: jwt, jwks_url: 'http://keys.example.com/', insecure: true",
        "kind: jwt, secret_file: s, algorithms: HS256",
        f"{OIDC}, claims: {{groups: staff, email_verified: true, level: [1, 2]}}",
        "kind: basic, users: u",
        "kind: forward_auth, url: http://127.0.0.1:9091/verify, copy: [X-User, authorization], trust: [200, 204]",
    ],
)
def test_what_can_protect_is_accepted(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text).content.middlewares


@pytest.mark.parametrize(
    ("url", "permitted"),
    [
        ("https://a.test", True),
        ("http://127.9.9.9/", True),
        ("http://localhost.evil.test/", False),
        ("http://127.0.0.1.evil.test/", False),
        ("http://10.0.0.1/", False),
        ("https://user@a.test/", False),
        ("ftp://127.0.0.1/", False),
        ("https://", False),
        ("http://[::1/", False),
        ("//a.test", False),
    ],
)
def test_only_this_machine_is_reached_without_tls(url: str, permitted: bool) -> None:
    assert is_permitted(url, insecure=False) is permitted


def test_the_supervisor_opens_what_the_sections_name(tmp_path: Path) -> None:
    def needs(text: str) -> set[str]:
        return {str(need.path) for need in files_of(loaded(tmp_path, text))}

    system = {"/etc/resolv.conf", "/etc/hosts"}
    assert needs("kind: basic, users: u") == {str(tmp_path / "u")}
    assert needs("kind: jwt, key: k.pem") == {str(tmp_path / "k.pem")}
    assert needs("kind: jwt, jwks_url: 'https://keys.example.com/', ca: c") == {str(tmp_path / "c"), *system}
    assert needs("kind: forward_auth, url: http://127.0.0.1/") == set()
    assert needs(f"{OIDC}, client_secret_file: s") == {str(tmp_path / "s"), *system}


def test_fields_about_clients_are_known_of_every_kind(tmp_path: Path) -> None:
    for text, names in (
        ("kind: jwt, key: k, forward: {sub: X-User}", ["x-user"]),
        ("kind: basic, users: u, user_field: X-Name", ["x-name"]),
        ("kind: basic, users: u", []),
        ("kind: forward_auth, url: http://127.0.0.1/, copy: [X-A, X-B]", ["x-a", "x-b"]),
    ):
        (section,) = loaded(tmp_path, text).content.middlewares
        assert list(section.asserts()) == names
