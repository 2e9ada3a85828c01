"""Invariant: a proxy is named when no server of it is healthy for any worker, with a line that an operator can run."""

from __future__ import annotations

import pytest

from supervisor.admin.unhealthy import unhealthy
from velocity_edge.config.content import Content
from velocity_edge.status.document import Upstream


def row(upstream: str, healthy: int | None) -> Upstream:
    return {
        "upstream": upstream, "healthy_workers": healthy, "requests": 0, "errors_5xx": 0, "failed": 0, "retries": 0,
        "ejections": 0, "running": 0, "idle": 0, "p50_s": None, "p99_s": None,
    }  # fmt: skip


CONTENT = Content.model_validate_json(
    '{"proxies": [{"hostname": "a.test", "upstreams": ["http://10.0.0.1", "http://10.0.0.2:81"]}],'
    ' "routes": [{"match": {"path": "/x"}, "action": {"type": "proxy", "upstream": "unix:/run/x"}}]}'
)


def test_a_proxy_without_a_healthy_server_is_named_once() -> None:
    rows = [row("http://10.0.0.1", 0), row("http://10.0.0.2:81", 0), row("unix:/run/x", 2)]
    (sentence,) = unhealthy(CONTENT, rows)
    assert sentence == (
        "content.proxies[0] (a.test): none of its servers is healthy (http://10.0.0.1, http://10.0.0.2:81); requests "
        "are still tried. `curl -v http://10.0.0.1/` shows whether it answers"
    )


@pytest.mark.parametrize("other", [1, None])
def test_one_healthy_server_is_enough(other: int | None) -> None:
    assert not list(unhealthy(CONTENT, [row("http://10.0.0.1", 0), row("http://10.0.0.2:81", other)]))


def test_a_server_of_which_nothing_is_known_is_not_down() -> None:
    assert not list(unhealthy(CONTENT, []))


def test_the_line_for_a_unix_socket_names_it() -> None:
    (sentence,) = unhealthy(CONTENT, [row("unix:/run/x", 0)])
    assert "`curl -v --unix-socket /run/x http://localhost/`" in sentence
