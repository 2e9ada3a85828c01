"""State tables: (state, event) -> state after it. The one rule for events that a table lacks.

Every change of a state in this folder is `TABLE.after(state, event)`. An event that the table lacks raises
`IllegalEvent`, which names the state and the event: it is a bug of this program, never of a worker or an operator.
Where an event may legitimately come late, the caller asks `TABLE.has(state, event)` first.

docs/architecture.md shows the tables as `render` prints them; a test compares both. Pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, TypeVar

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class IllegalEvent(Exception):
    """An event that cannot happen in this state."""


class Table(dict[tuple[S, E], S], Generic[S, E]):
    """The transitions of one state machine."""

    def after(self, state: S, event: E) -> S:
        """Return the state after *event*. Raises `IllegalEvent` when the table lacks it."""
        try:
            return self[state, event]
        except KeyError:
            raise IllegalEvent(f"cannot {event} while {state}") from None

    def has(self, state: S, event: E) -> bool:
        """Whether *event* can happen in *state*."""
        return (state, event) in self

    def render(self, first: S) -> str:
        """Return the table as a Mermaid state diagram that begins in *first*."""
        lines = [f"    {before} --> {after}: {event}" for (before, event), after in self.items()]
        return "\n".join(["stateDiagram-v2", f"    [*] --> {first}", *lines])
