"""`content.middlewares`: every kind of middleware that a configuration can define, one file for each.

The kinds are members of one union, told apart by `kind`. A new kind is a file here, a member of `Middleware`, and a
`case` in workers/middleware/build.py; mypy names the `match` that lacks it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from velocity_edge.config.middlewares.basic import Basic
from velocity_edge.config.middlewares.body_limit import BodyLimit
from velocity_edge.config.middlewares.compress import Compress
from velocity_edge.config.middlewares.cors import Cors
from velocity_edge.config.middlewares.forward_auth import ForwardAuth
from velocity_edge.config.middlewares.headers import Headers
from velocity_edge.config.middlewares.ip import IpLists
from velocity_edge.config.middlewares.jwt import Jwt
from velocity_edge.config.middlewares.oidc import Oidc
from velocity_edge.config.middlewares.plugin import Plugin
from velocity_edge.config.middlewares.rate_limit import RateLimit
from velocity_edge.config.middlewares.security_headers import SecurityHeaders

#: One entry of `content.middlewares`.
Middleware = Annotated[
    Basic
    | BodyLimit
    | Compress
    | Cors
    | ForwardAuth
    | Headers
    | IpLists
    | Jwt
    | Oidc
    | Plugin
    | RateLimit
    | SecurityHeaders,
    Field(discriminator="kind"),
]
