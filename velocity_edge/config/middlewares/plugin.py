"""`kind: plugin`: a middleware from a package of the operator's own.

Short because `options` belong to the package, which checks them itself when a worker prepares the revision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import JsonValue

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection
from velocity_edge.config.section import Problem


class Plugin(MiddlewareSection):
    """`kind: plugin`: a middleware of an installed package, by the name of its entry point."""

    layer: ClassVar[Layer] = Layer.PLUGIN

    kind: Literal["plugin"]
    """`plugin`"""
    plugin: str
    """Name of the entry point."""
    options: dict[str, JsonValue] = {}
    """Passed to the package as they are."""

    def problems(self) -> Iterator[Problem]:
        """Yield that it is not implemented."""
        yield ("kind",), "cannot load packages yet: leave it out"
