"""A route has the middlewares that it names, in that order; without a list, those that are marked `everywhere`.

A name that nothing defines is an error; a definition that nothing uses is a warning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from velocity_edge.config.content import Content
from velocity_edge.config.load import load, load_with_origins
from velocity_edge.config.routes import routes_of
from velocity_edge.config.servable import check
from velocity_edge.errors import ConfigError


def content(*middlewares: dict[str, Any], **routes: list[str] | None) -> Content:
    return Content.model_validate(
        {
            "middlewares": [{"kind": "headers", **one} for one in middlewares],
            "routes": [
                {"match": {"path": f"/{path}"}, "action": {"type": "static"}, "middlewares": names}
                for path, names in routes.items()
            ],
        }
    )


def names(of: Content) -> dict[str, list[str]]:
    return {route.pattern.text: [one.name for one in route.around.middlewares] for route in routes_of(of)}


def test_a_list_decides_alone_and_its_order_counts() -> None:
    found = content({"name": "a"}, {"name": "b"}, {"name": "c", "everywhere": True}, ba=["b", "a"], none=[], unset=None)
    assert names(found) == {"/ba": ["b", "a"], "/none": [], "/unset": ["c"]}


def test_those_that_apply_everywhere_keep_the_order_of_their_definition_within_a_layer() -> None:
    found = content({"name": "z", "everywhere": True}, {"name": "a", "everywhere": True}, x=None)
    assert names(found) == {"/x": ["z", "a"]}


FILE = """\
server: {tls: {self_signed: true}}
content:
  middlewares:
    - {name: used, kind: headers}
    - {name: forgotten, kind: headers}
  routes:
    - match: {path: /}
      action: {type: static}
      middlewares: [used]
"""


def test_a_middleware_that_nothing_uses_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(FILE)
    (warning,) = check(load_with_origins(file, environment={}))
    assert warning.startswith("content.middlewares: 'forgotten' is used by no site, proxy or route")


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        (
            "[used]",
            "[used, auth]",
            "9:27: content.routes[0].middlewares[1]: cannot use 'auth': content.middlewares defines forgotten, used",
        ),
        ("name: forgotten", "name: used", "5:8: content.middlewares[1].name: cannot define 'used' twice"),
        (
            "forgotten, kind: headers",
            "x, kind: oauth",
            "5:17: content.middlewares[1].kind: cannot use 'oauth': must be",
        ),
        ("forgotten, kind: headers", "x", "5:7: content.middlewares[1].kind: cannot be left out"),
        (
            "forgotten, kind: headers",
            "x, kind: headers, plugin: y",
            "cannot be used with kind 'headers': only with kind 'plugin'",
        ),
        (
            "forgotten, kind: headers",
            "x, kind: headers, response: {sets: 1}",
            'content.middlewares[1].response.sets: cannot understand this key; did you mean "set"?',
        ),
        (
            "forgotten, kind: headers",
            "x, kind: headers, response: {set: {Content-Length: '1'}}",
            "content.middlewares[1].response.set: cannot change 'Content-Length': the server sets it",
        ),
    ],
)
def test_errors_name_the_place(tmp_path: Path, before: str, after: str, error: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(FILE.replace(before, after))
    with pytest.raises(ConfigError) as caught:
        load(file, environment={})
    assert error in str(caught.value)
