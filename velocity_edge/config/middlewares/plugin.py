"""`kind: plugin`: a middleware from a package of the operator's own.

Short because `options` belong to the package, which checks them itself when a worker prepares the revision.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import JsonValue

from velocity_edge.config.middlewares.base import Layer, MiddlewareSection


class Plugin(MiddlewareSection):
    """`kind: plugin`: a middleware of an installed package (docs/plugins.md)."""

    layer: ClassVar[Layer] = Layer.PLUGIN

    kind: Literal["plugin"]
    """`plugin`"""
    plugin: str
    """Name of its entry point, in the group `velocity_edge.middleware`."""
    options: dict[str, JsonValue] = {}
    """Passed to the package as they are."""
