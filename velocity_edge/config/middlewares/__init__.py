"""`content.middlewares`: every kind of middleware that a configuration can define, one file for each.

The kinds are members of one union, told apart by `kind`. A new kind is a file here, a member of `Middleware`, and a
`case` in workers/middleware/build.py; mypy names the `match` that lacks it.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from velocity_edge.config.middlewares.headers import Headers
from velocity_edge.config.middlewares.plugin import Plugin

#: One entry of `content.middlewares`.
Middleware = Annotated[Headers | Plugin, Field(discriminator="kind")]
