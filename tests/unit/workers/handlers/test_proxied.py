"""Invariant: a proxy does what its section says; a reload keeps what it does not change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.support.certificates import make_certificate
from tests.support.fake_upstreams import Behind
from velocity_edge.config.upstreams import Upstream
from velocity_edge.errors import ConfigError
from velocity_edge.http.forwarded import TrustedProxies
from velocity_edge.http.requests import Outcome
from workers.handlers.proxied import proxy_of
from workers.handlers.resources import Lease, Resources
from workers.handlers.static.beneath import Descriptor
from workers.proxy.group import Group
from workers.proxy.handler import ProxyHandler


class Stage:
    def __init__(self) -> None:
        self.behind = Behind()
        self.resources = Resources()
        self.lease = self.resources.lease()

    def make(self, lease: Lease | None = None, *files: Path, **keys: Any) -> ProxyHandler:
        roots = {str(file): Descriptor(os.open(file, os.O_RDONLY)) for file in files}
        upstream = TypeAdapter(Upstream).validate_python(keys, strict=False)
        return proxy_of(
            upstream,
            self.behind.context,
            lease or self.lease,
            roots,
            max_body_bytes=7,
            trusted=TrustedProxies(),
            reads_body=False,
        )

    def group(self, lease: Lease | None = None, *files: Path, **keys: Any) -> Group:
        return self.make(lease, *files, **keys).group


def test_the_settings_of_connections_are_those_of_the_section() -> None:
    keys = {
        "timeouts": {"connect": "1s", "response": "2s", "idle": "3s"},
        "keepalive": "4s",
        "max_connections": 5,
        "max_idle": 9,
        "max_requests_per_connection": 6,
    }
    (server,) = (member.server for member in Stage().group(upstream="http://10.0.0.1", **keys).members)
    pool = server.settings.pool
    assert (pool.connect_timeout_ns, pool.response_timeout_ns, pool.idle_timeout_ns) == (10**9, 2 * 10**9, 3 * 10**9)
    assert (pool.keepalive_timeout_ns, pool.max_connections, pool.max_idle_connections) == (4 * 10**9, 5, 5)
    assert pool.max_requests_per_connection == 6


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        ("http://10.0.0.1", "auto", "h1"),
        ("http://10.0.0.1", "h2c", "h2"),
        ("h2c://10.0.0.1", "auto", "h2"),
        ("https://10.0.0.1", "auto", "auto"),
        ("https://10.0.0.1", "h1", "h1"),
        ("https://10.0.0.1", "h2", "h2"),
        ("unix:/x", "auto", "h1"),
    ],
)
def test_the_protocol_follows_the_address(url: str, protocol: str, expected: str) -> None:
    (member,) = Stage().group(upstream=url, protocol=protocol).members
    assert member.server.settings.pool.protocol == expected
    assert (member.server.settings.pool.tls is not None) == url.startswith("https")


def test_how_servers_are_chosen_is_in_the_group() -> None:
    group = Stage().group(
        upstreams=["http://10.0.0.1", {"url": "http://10.0.0.2", "weight": 3, "max_connections": 2}],
        lb={"policy": "cookie_hash", "cookie": "c", "sticky": "s"},
        retries={"attempts": 4, "budget": 0.5, "on": "timeout"},
        queue={"max": 8, "timeout": "9s"},
        health={"passive": {"fails": 1, "window": "2s", "ejection": "3s", "status": ["500-503", 429]}},
    )
    settings = group.settings
    assert [(member.name, member.weight) for member in group.members] == [
        ("http://10.0.0.1", 1),
        ("http://10.0.0.2", 3),
    ]
    assert [member.server.settings.max_running for member in group.members] == [1024, 2]
    assert (settings.policy, settings.cookie, settings.sticky) == ("cookie_hash", b"c", b"s")
    assert (settings.retries.attempts, settings.retries.on) == (4, {Outcome.RESPONSE_TIMEOUT})
    assert (settings.budget, settings.max_waiting, settings.wait_s) == (0.5, 8, 9.0)
    server = group.members[0].server.settings
    assert (server.passive.fails, server.passive.window_s, server.passive.ejection_s) == (1, 2.0, 3.0)
    assert server.bad_statuses == ((500, 503), (429, 429))


def test_a_check_has_what_its_section_says() -> None:
    active = {"path": "/h?x", "interval": "1s", "timeout": "2s", "status": 204, "body": "ok", "host": "h.test"}
    (member,) = Stage().group(upstream="http://10.0.0.1", health={"active": active | {"passes": 7, "fails": 8}}).members
    probe = member.server.settings.probe
    assert probe is not None
    assert (probe.path, probe.interval_s, probe.timeout_s, probe.statuses) == ("/h?x", 1.0, 2.0, ((204, 204),))
    assert (probe.body, probe.host, probe.rules.passes, probe.rules.fails) == (b"ok", "h.test", 7, 8)


def test_a_reload_keeps_what_it_does_not_change() -> None:
    stage = Stage()
    before = stage.group(upstreams=["http://10.0.0.1", "http://10.0.0.2"])
    other = stage.resources.lease()
    same = stage.group(
        other, upstreams=["http://10.0.0.1", "http://10.0.0.2"], headers={"request": {"set": {"a": "b"}}}
    )
    assert same is before
    more = stage.resources.lease()
    after = stage.group(more, upstreams=["http://10.0.0.1", "http://10.0.0.3"])
    assert after is not before
    assert after.members[0].server is before.members[0].server
    gone = before.members[1].server
    stage.lease.close()
    other.close()
    assert before.members[0].server in after.members[0].server._context.overview._servers
    assert gone not in after.members[0].server._context.overview._servers
    more.close()
    assert len(stage.resources) == 0


def test_names_are_resolved_with_the_files_of_the_revision_that_is_active(tmp_path: Path) -> None:
    stage = Stage()
    stage.make(upstream="http://a.test")
    assert stage.behind.names.watched == {}
    stage.lease.begin()
    assert list(stage.behind.names.watched) == ["a.test"]


def test_certificates_of_a_route_are_read_and_belong_together(tmp_path: Path) -> None:
    one, two = (
        make_certificate(folder, "a.test") for folder in (tmp_path / "1", tmp_path / "2") if folder.mkdir() is None
    )
    tls = {"ca": f"{two.chain}", "certificate": f"{one.chain}", "private_key": f"{one.key}", "server_name": "b.test"}
    (member,) = Stage().group(None, one.chain, one.key, two.chain, upstream="https://10.0.0.1", tls=tls).members
    client = member.server.settings.pool.tls
    assert client is not None
    assert (client.server_name, client.verify, client.ca_pem) == ("b.test", True, two.chain.read_bytes())
    assert (client.certificate_pem, client.private_key_pem) == (one.chain.read_bytes(), one.key.read_bytes())
    with pytest.raises(ConfigError, match="it is not the key of"):
        Stage().make(None, one.chain, two.key, two.chain, upstream="https://a", tls=tls | {"private_key": f"{two.key}"})
    with pytest.raises(ConfigError, match="no PEM certificate in it"):
        Stage().make(None, one.chain, one.key, upstream="https://a", tls=tls | {"ca": f"{one.key}"})


def test_without_verification_nobody_is_asked(tmp_path: Path) -> None:
    (member,) = Stage().group(upstream="https://a.test", tls={"verify": False}).members
    client = member.server.settings.pool.tls
    assert client is not None
    assert (client.server_name, client.verify, client.ca_pem) == ("a.test", False, None)
