"""Which plugins the installed packages declare: for `config lint`, before a worker loads them (workers/plugins.py).

Only names are read here, no code of a package is run. Short because what a plugin is, is decided by workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Final

from velocity_edge.config.actions import PluginAction
from velocity_edge.config.content import Content
from velocity_edge.config.middlewares.plugin import Plugin
from velocity_edge.config.section import Problem

#: Groups of entry points.
HANDLERS: Final = "velocity_edge.handlers"
MIDDLEWARE: Final = "velocity_edge.middleware"


def plugin_problems(content: Content) -> Iterator[Problem]:
    """Yield each name of a plugin that no installed package declares."""
    for i, route in enumerate(content.routes):
        if isinstance(route.action, PluginAction) and (text := _missing(HANDLERS, route.action.name)):
            yield ("content", "routes", str(i), "action", "name"), text
    for i, section in enumerate(content.middlewares):
        if isinstance(section, Plugin) and (text := _missing(MIDDLEWARE, section.plugin)):
            yield ("content", "middlewares", str(i), "plugin"), text


def _missing(group: str, name: str) -> str:
    names = sorted({found.name for found in entry_points(group=group)})
    if name in names:
        return ""
    return f"cannot find {name!r}: packages that are installed here have {', '.join(names) or 'none'} in {group}"
