"""The word of this folder: a finding."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Level(enum.StrEnum):
    """How much a finding matters."""

    FINE = "fine"
    #: Good to know; nothing is worse for it.
    NOTE = "note"
    #: The node serves, with less than it could have.
    LACKING = "lacking"
    #: A node cannot serve here.
    FATAL = "fatal"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is what an operator could do: a sentence or a command."""

    subject: str
    level: Level
    text: str
    remedy: str = ""
