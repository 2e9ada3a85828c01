"""The schema accepts what the file accepts, refuses what it refuses, and every reference in it leads somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from velocity_edge.config.json_schema import schema_of_edge_file, schema_of_file
from velocity_edge.config.tree import parse

HERE = Path(__file__).parent
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def wrong(value: Any, schema: Any, whole: dict[str, Any], at: str = "") -> Iterator[str]:
    """Yield where *value* does not match: the keywords of JSON Schema that the generated schema has."""
    if schema is True:
        return
    if "$ref" in schema:
        yield from wrong(value, whole["$defs"][schema["$ref"].removeprefix("#/$defs/")], whole, at)
        return
    for several in ("anyOf", "oneOf"):
        if several in schema and all(list(wrong(value, one, whole, at)) for one in schema[several]):
            yield f"{at}: none of {several}"
    kind = schema.get("type")
    if kind == "null":
        if value is not None:
            yield f"{at}: not null"
        return
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{at}: not {kind}"
        return
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        yield f"{at}: not one of the values"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{at}: not of the form"
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{at}: out of range"
    if isinstance(value, dict):
        yield from (f"{at}: lacks {key}" for key in schema.get("required", ()) if key not in value)
        for key, below in value.items():
            part = schema.get("properties", {}).get(key, schema.get("additionalProperties", True))
            if part is False:
                yield f"{at}.{key}: unknown"
            else:
                yield from wrong(below, part, whole, f"{at}.{key}")
    if isinstance(value, list) and "items" in schema:
        for i, below in enumerate(value):
            yield from wrong(below, schema["items"], whole, f"{at}[{i}]")


def checked(text: str, *, edge: bool = False) -> list[str]:
    schema = schema_of_edge_file() if edge else schema_of_file()
    return list(wrong(parse(text, "f").values, schema, schema))


def test_the_files_of_the_guide_match() -> None:
    assert checked((HERE / "serve.simple.yaml").read_text()) == []
    assert checked((HERE / "edge.yaml").read_text(), edge=True) == []


@pytest.mark.parametrize(
    "text",
    [
        "server: {listen: '1.2.3.4:5', limits: {idle_timeout: 90}, telemetry: {access_log: clf}}",
        "server: {listen: ['1.2.3.4:5'], limits: {idle_timeout: 1h30m, max_request_body: 1MiB}}",
        "content: {proxies: [{hostname: a, upstreams: ['http://b', {url: 'http://c', weight: 2}]}]}",
        "content: {routes: [{match: {path: /, headers: {a: '1', b: true, c: {regex: x}}}, action: {type: static}}]}",
        "content: {routes: [{match: {path: /}, action: {type: json, body: {a: [1, {}]}}, middlewares: []}]}",
    ],
)
def test_what_the_file_accepts_is_accepted(text: str) -> None:
    assert checked(text) == []


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("sever: {}", ".sever: unknown"),
        ("server: {workers: two}", ".server.workers: none of anyOf"),
        ("server: {drain: {timeout: 5x}}", ".server.drain.timeout: none of anyOf"),
        ("server: {profiles: {default: x}}", ".server.profiles.default: not one of the values"),
        ("content: {sites: [{hostname: a}]}", ".content.sites[0]: lacks root"),
        ("content: {routes: [{match: {path: /}, action: {type: x}}]}", ".content.routes[0].action: none of oneOf"),
        ("content: {middlewares: [{name: a, kind: x}]}", ".content.middlewares[0]: none of oneOf"),
    ],
)
def test_what_the_file_refuses_is_refused(text: str, at: str) -> None:
    assert at in checked(text)


def test_every_key_has_a_description_and_every_reference_a_target() -> None:
    schema = schema_of_file()
    for name, section in schema["$defs"].items():
        assert section.get("description") or name == "JsonValue", name

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"].removeprefix("#/$defs/")
            for below in value.values():
                yield from references(below)
        elif isinstance(value, list):
            for below in value:
                yield from references(below)

    assert set(references(schema)) <= set(schema["$defs"])
