"""Sites, proxies and routes resolve to one list, in which no request has two answers; its JSON form does not change.

A supervisor and its workers may be of different versions: each reads the configuration that the other one wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from velocity_edge.config.actions import FixedAnswer, ProxyAction
from velocity_edge.config.content import Content, Site
from velocity_edge.config.load import load
from velocity_edge.config.model import Config
from velocity_edge.config.routes import collisions, routes_of

YAML = """\
content:
  sites: [{hostname: '*', aliases: a.test, root: /srv/www, error_pages: {404: e.html}}]
  routes:
    - {match: {path: /healthz, methods: GET}, action: {type: static, body: ok, headers: {cache-control: no-store}}}
    - {match: {path: /api/}, action: {type: static, status: 503}}
"""

#: `content` as the versions wrote it in which an action had the keys of every type.
WRITTEN_BEFORE: dict[str, Any] = {
    "sites": [
        {
            "hostname": "*",
            "aliases": ["a.test"],
            "root": "/srv/www",
            "index": ["index.html"],
            "cache_control": None,
            "listings": False,
            "spa_fallback": None,
            "precompressed": True,
            "error_pages": {"404": "e.html"},
            "hidden_files": False,
            "security_headers": True,
            "fallback_endpoint": None,
        }
    ],
    "proxies": [],
    "routes": [
        {
            "match": {"path": "/healthz", "methods": ["GET"]},
            "action": {
                "type": "static",
                "status": 200,
                "body": "ok",
                "headers": {"cache-control": "no-store"},
                "upstream": None,
                "streaming": False,
            },
        },
        {
            "match": {"path": "/api/", "methods": []},
            "action": {
                "type": "static",
                "status": 503,
                "body": "",
                "headers": {},
                "upstream": None,
                "streaming": False,
            },
        },
    ],
}


@pytest.fixture(name="config")
def _config(tmp_path: Path) -> Config:
    file = tmp_path / "serve.yaml"
    file.write_text(YAML)
    return load(file, environment={})


def test_the_json_of_the_version_before_is_read(config: Config) -> None:
    assert Config.from_json({"content": WRITTEN_BEFORE}) == config


def only_keys_of(before: Any, now: Any) -> Any:
    """Return *now* without the keys that *before* does not have: an older version ignores them."""
    if isinstance(before, dict):
        return {key: only_keys_of(value, now[key]) for key, value in before.items()}
    if isinstance(before, list):
        return [only_keys_of(a, b) for a, b in zip(before, now, strict=True)]
    return now


def test_the_version_before_finds_every_key_that_it_requires(config: Config) -> None:
    """It has a default for the two keys of an action that are not written any more, and finds the others unchanged."""
    written = config.to_json()["content"]
    for route in written["routes"]:
        route["action"] |= {"upstream": None, "streaming": False}
    assert only_keys_of(WRITTEN_BEFORE, written) == WRITTEN_BEFORE


def test_routes_are_on_the_hosts_of_every_site(config: Config) -> None:
    site = config.content.sites[0]
    health, api = (route.action for route in config.content.routes)
    found = [(r.host, r.pattern.text, list(r.methods), r.action, r.where) for r in routes_of(config.content)]
    assert found == [
        ("*", "/", [], site, ("content", "sites", "0")),
        ("a.test", "/", [], site, ("content", "sites", "0")),
        ("*", "/healthz", ["GET"], health, ("content", "routes", "0")),
        ("a.test", "/healthz", ["GET"], health, ("content", "routes", "0")),
        ("*", "/api", [], api, ("content", "routes", "1")),
        ("a.test", "/api", [], api, ("content", "routes", "1")),
    ]


def test_routes_without_sites_are_on_every_host() -> None:
    content = Content.model_validate({"routes": [{"match": {"path": "/"}, "action": {"type": "static"}}]})
    assert [(r.host, r.pattern.text, type(r.action)) for r in routes_of(content)] == [("*", "/", FixedAnswer)]


def test_a_proxy_is_a_route_of_its_host_and_collides_with_a_site_there() -> None:
    content = Content.model_validate_json(
        '{"sites": [{"hostname": "a", "root": "/x"}], "proxies": ['
        '{"hostname": "a", "path": "/api/", "upstream": "http://b"}, {"hostname": "a", "upstream": "http://b"}]}'
    )
    routes = routes_of(content)
    assert [(r.host, r.pattern.text) for r in routes] == [("a", "/"), ("a", "/api"), ("a", "/")]
    assert list(collisions(routes)) == [
        (("content", "proxies", "1", "hostname"), "cannot serve 'a' twice: content.sites[0] has it")
    ]


def test_an_action_has_only_the_keys_of_its_type() -> None:
    assert not set(FixedAnswer.model_fields) & (set(ProxyAction.model_fields) - {"type", "headers"})
    assert "upstream" not in Site.model_fields
