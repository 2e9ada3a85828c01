"""`tickets`: how long the node's keys are used, and where they are kept (velocity_edge/keys). Short because each
section has its own file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import AbsolutePath, Duration


class Tickets(Section):
    """The keys of session tickets, address tokens, resets and connection IDs: one table for the whole node."""

    max_age_s: Duration = Field(default=86400.0, alias="max_age")
    """Lifetime of a ticket."""
    rotate_after_s: Duration = Field(default=43200.0, alias="rotate_after")
    """How long a key seals before the next one replaces it. It opens for `max_age` longer."""
    storage: AbsolutePath | None = None
    """File that keeps the keys across restarts. Unset: tickets.json in the state directory."""
    on_damage: Literal["refuse", "fresh"] = "refuse"
    """When this file cannot be read: `refuse` does not start; `fresh` keeps a copy of it and makes new keys (existing
    sessions fall back to a full handshake)."""

    def problems(self) -> Iterator[Problem]:
        """Yield a rotation that would outlast the keys."""
        if self.rotate_after_s <= 0 or self.rotate_after_s > self.max_age_s:
            yield ("rotate_after",), "cannot be 0 or longer than tickets.max_age: keys must outlive a rotation"
