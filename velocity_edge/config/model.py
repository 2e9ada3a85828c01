"""The resolved configuration as one object, and the JSON form in which it is sent to workers.

Each section has its own file with its keys, defaults and rules; docs/configuration.md is generated from them
(reference.py). A key's name in the YAML file is the field's alias: `max_age: 24h` is `max_age_s == 86400.0` here. How
text becomes values is decided in values.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import orjson

from velocity_edge.config.content import Content
from velocity_edge.config.dispatch import Dispatch
from velocity_edge.config.routes import collisions, routes_of
from velocity_edge.config.section import Problem, Section
from velocity_edge.config.server import Server
from velocity_edge.config.telemetry import Telemetry
from velocity_edge.config.tickets import Tickets


class Config(Section):
    """A whole configuration."""

    server: Server = Server()
    dispatch: Dispatch = Dispatch()
    content: Content = Content()
    tickets: Tickets = Tickets()
    telemetry: Telemetry | None = None
    """An alternative place for `server.telemetry`; not both."""

    def problems(self) -> Iterator[Problem]:
        """Yield routes of the content that answer the same requests."""
        yield from collisions(routes_of(self.content))

    @classmethod
    def from_json(cls, data: dict[str, Any] | bytes | str) -> Self:
        """Return the configuration that `to_json` wrote; keys that only a later version knows are ignored.

        Every key was checked by the version that wrote it (load.py); a worker may be older than its supervisor.
        """
        content = orjson.dumps(data) if isinstance(data, dict) else data
        return cls.model_validate_json(content, extra="ignore")

    def to_json(self) -> dict[str, Any]:
        """Return this configuration as JSON types, the form in which workers receive it (`Configure.config`)."""
        return self.model_dump(mode="json", by_alias=True)
