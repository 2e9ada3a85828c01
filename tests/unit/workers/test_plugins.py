"""A plugin that cannot be used is an error of the configuration that names it, with the reason, and of nothing else."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from velocity_edge.config.plugin_names import HANDLERS, MIDDLEWARE
from velocity_edge.errors import ConfigError
from workers import plugins
from workers.http import Request, Response, plain
from workers.middleware.headers import AddHeaders
from workers.pipeline import Handler


def handler(options: Mapping[str, Any]) -> Handler:
    if options.get("bad"):
        raise ValueError("bad must not be true")
    return lambda request: plain(200, str(options.get("text")))


def bug(options: Mapping[str, Any]) -> Handler:
    return options["none"]  # type: ignore[no-any-return]


DECLARED = {
    HANDLERS: {"good": "a_package:handler", "bug": "a_package:bug", "seven": "a_package:seven", "gone": "no_package:x"},
    MIDDLEWARE: {"stamp": "a_package:stamp", "seven": "a_package:seven"},
}


@pytest.fixture(name="loaded")
def _loaded(monkeypatch: pytest.MonkeyPatch) -> plugins.Plugins:
    package = types.ModuleType("a_package")
    package.__dict__.update(
        handler=handler, bug=bug, seven=lambda options: 7, stamp=lambda options: AddHeaders((), lambda: (b"date", b""))
    )
    monkeypatch.setitem(sys.modules, "a_package", package)
    monkeypatch.setattr(
        plugins,
        "entry_points",
        lambda group: [EntryPoint(name, value, group) for name, value in DECLARED[group].items()],
    )
    made = plugins.Plugins()
    made.load()
    return made


def test_a_factory_gets_the_options(loaded: plugins.Plugins) -> None:
    response = loaded.handler("good", {"text": "hi"})(Request(b"GET", b"a", b"/"))
    assert isinstance(response, Response)
    assert response.body == b"hi\n"
    assert isinstance(loaded.middleware("stamp", {}), AddHeaders)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("good", {"bad": True}, "cannot use the plugin 'good': bad must not be true"),
        ("bug", {}, "cannot use the plugin 'bug': KeyError: 'none'"),
        ("seven", {}, "cannot use the plugin 'seven': it made int, not a handler"),
        ("gone", {}, "cannot use the plugin 'gone': ModuleNotFoundError: No module named 'no_package'"),
        ("stamp", {}, "in the group velocity_edge.handlers this worker loaded bug, good, seven when it started"),
    ],
)
def test_what_cannot_be_used_says_why(loaded: plugins.Plugins, name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded.handler(name, options)
    assert said in str(caught.value)


def test_a_middleware_must_be_one(loaded: plugins.Plugins) -> None:
    with pytest.raises(ConfigError, match="it made int, not a Middleware"):
        loaded.middleware("seven", {})
