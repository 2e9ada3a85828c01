"""What is the same to an operator is no difference, and no secret is shown."""

from __future__ import annotations

from typing import Any

from velocity_edge.config.difference import differences
from velocity_edge.config.effects import RESTART, Effect, effect_of, value_of
from velocity_edge.config.model import Config


def config(**content: Any) -> Config:
    return Config.from_json({"content": content})


def route(path: str, body: str = "", **match: Any) -> dict[str, Any]:
    return {"match": {"path": path, **match}, "action": {"type": "static", "body": body}}


def test_the_order_of_entries_is_no_difference() -> None:
    before, after = config(routes=[route("/a"), route("/b")]), config(routes=[route("/b"), route("/a")])
    assert differences(before, after) == []


def test_a_changed_route_is_one_change() -> None:
    ((change),) = differences(config(routes=[route("/a", "1")]), config(routes=[route("/b"), route("/a", "2")]))[:1]
    assert (change.key, change.before, change.after) == ("content.routes[/a].action.body", "1", "2")


def test_routes_are_told_apart_by_all_that_they_match() -> None:
    same_path = [
        route("/a", "1", methods=["GET"]),
        route("/a", "2", headers={"x-a": "1"}),
        route("/a", "3", exact=True),
    ]
    changed = [dict(one, action={"type": "static", "body": "new"}) for one in same_path]
    found = differences(config(routes=same_path), config(routes=changed))
    assert len({one.key for one in found}) == 3


def test_secrets_are_not_shown() -> None:
    def oidc(secret: str) -> dict[str, Any]:
        return {
            "name": "auth",
            "kind": "oidc",
            "issuer": "https://auth.test",
            "client_id": "c",
            "client_secret": secret,
        }

    (change,) = differences(config(middlewares=[oidc("one")]), config(middlewares=[oidc("two")]))
    assert (change.key, change.before, change.after) == (
        "content.middlewares[auth].client_secret",
        "(secret)",
        "(secret)",
    )


def test_every_key_that_needs_a_restart_exists() -> None:
    for key in RESTART:
        value_of(Config(), key)
        assert effect_of(key) is Effect.RESTART
