"""Handlers and middleware of the operator's own, from installed packages (docs/plugins.md).

A package declares them as entry points, in the groups `velocity_edge.handlers` and `velocity_edge.middleware`. Every
entry point of the environment is loaded when a worker starts, while it may still read files; which of them are used is
in the configuration. One that cannot be loaded is an error only for a configuration that names it.

An entry point is a factory: a function from the `options` of the configuration to a `Handler`, or to a `Middleware`
(pipeline.py). It is called once for each place of the configuration that names it, when a revision is prepared, and
raises ValueError for options that it cannot use.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from velocity_edge.config.plugin_names import HANDLERS, MIDDLEWARE
from velocity_edge.errors import ConfigError
from workers.pipeline import Handler, Middleware

log = logging.getLogger(__name__)

#: What a package provides.
HandlerFactory = Callable[[Mapping[str, Any]], Handler]
MiddlewareFactory = Callable[[Mapping[str, Any]], Middleware]


class Plugins:
    """The entry points of the environment, loaded."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str], Any] = {}
        self._failed: dict[tuple[str, str], str] = {}

    def load(self) -> None:
        """Import every package that declares an entry point. One that fails is logged."""
        for group in (HANDLERS, MIDDLEWARE):
            for found in entry_points(group=group):
                self._load(group, found)

    def _load(self, group: str, found: EntryPoint) -> None:
        try:
            self._loaded[group, found.name] = found.load()
        except Exception as error:
            self._failed[group, found.name] = f"{type(error).__name__}: {error}"
            log.warning("cannot load the plugin %s (%s): %s: %s", found.name, found.value, type(error).__name__, error)

    def handler(self, name: str, options: Mapping[str, Any]) -> Handler:
        """Return a new handler. Raises `ConfigError`."""
        made = self._made(HANDLERS, name, options)
        if not callable(made):
            raise ConfigError(f"cannot use the plugin {name!r}: it made {type(made).__name__}, not a handler")
        handler: Handler = made
        return handler

    def middleware(self, name: str, options: Mapping[str, Any]) -> Middleware:
        """Return a new middleware. Raises `ConfigError`."""
        made = self._made(MIDDLEWARE, name, options)
        if not isinstance(made, Middleware):
            raise ConfigError(f"cannot use the plugin {name!r}: it made {type(made).__name__}, not a Middleware")
        return made

    def _made(self, group: str, name: str, options: Mapping[str, Any]) -> Any:
        if (group, name) in self._failed:
            raise ConfigError(f"cannot use the plugin {name!r}: {self._failed[group, name]}")
        factory = self._loaded.get((group, name))
        if factory is None:
            known = ", ".join(sorted(name for of, name in self._loaded if of == group)) or "none"
            raise ConfigError(
                f"cannot use the plugin {name!r}: in the group {group} this worker loaded {known} when it started; "
                "after an installation, `velocity-edge admin restart` starts new workers"
            )
        try:
            return factory(options)
        except ValueError as error:
            raise ConfigError(f"cannot use the plugin {name!r}: {error}") from None
        except Exception as error:
            log.exception("the plugin %s failed", name)
            raise ConfigError(f"cannot use the plugin {name!r}: {type(error).__name__}: {error}") from None


#: Those of this process; preload.py loads them.
INSTALLED: Final = Plugins()
