"""What every kind of middleware has: its name, whether it applies everywhere, and its place in the default order.

A site, a proxy or a route names what applies to it, in order, from the outside to the inside: `middlewares: [auth,
cors]`. Without such a list, the ones that are marked `everywhere` apply, sorted by `layer`, then as they are defined.
routes.py resolves both.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from velocity_edge.config.section import Section

#: How middlewares are named: short enough for labels of metrics.
MiddlewareName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Layer(enum.IntEnum):
    """Where a middleware is when nothing orders it explicitly: the lowest number is the outermost.

    What refuses cheaply comes first; authentication is inside of CORS, so that a preflight request, which carries no
    credentials, is answered; compression is inside of what only reads heads.
    """

    SECURITY = 0
    NETWORKS = 1
    WAF = 2
    RATE_LIMIT = 3
    CORS = 4
    AUTHENTICATION = 5
    BODY = 6
    COMPRESSION = 7
    HEADERS = 8
    PLUGIN = 9


class MiddlewareSection(Section):
    """One definition. Each kind has a key `kind: Literal[...]`."""

    layer: ClassVar[Layer] = Layer.HEADERS

    name: MiddlewareName
    """The name by which sites, proxies and routes use it."""
    everywhere: bool = False
    """Apply it to every site, proxy and route that has no list `middlewares` of its own."""

    def place(self) -> Layer:
        """Return the layer of this definition: that of its kind, unless a key decides."""
        return self.layer

    def asserts(self) -> Sequence[str]:
        """Return the fields in which upstreams learn who the client is: nobody but this node may set them."""
        return ()
