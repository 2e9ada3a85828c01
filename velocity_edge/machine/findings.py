"""A finding: the result of one check. Short because every check imports it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How much a finding matters."""

    FINE = "fine"
    #: For information; the node is not affected.
    NOTE = "note"
    #: The node serves, without something that it could use.
    LACKING = "lacking"
    #: A node cannot serve here.
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `remedy` is what an operator can do: a sentence or a command."""

    subject: str
    level: Level
    text: str
    remedy: str = ""
