"""The base class of every section of the configuration, and the walk that collects what is wrong with a whole one.

A section has one file: its keys, with their types, defaults and documentation, and `problems`, which reports values
that cannot be combined and keys that are not implemented yet. So a new key is one change in one file. A section of few
keys makes a small file; that is intended.

A key that is not implemented is refused when it asks for something: ignoring it would suggest a protection that is not
there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

#: Where a value is: keys and list positions from the top, all as text.
KeyPath = tuple[str, ...]
#: A place and a sentence that begins with "cannot".
Problem = tuple[KeyPath, str]


@dataclass(frozen=True, slots=True)
class Need:
    """A file or a directory that a section names and that a worker reads through a descriptor (needs.py)."""

    path: Path
    kind: Literal["directory", "file"]
    #: The key that names it, below the section.
    where: KeyPath
    #: False: when it is missing, workers do without (/etc/resolv.conf).
    required: bool = True


class Section(BaseModel):
    """A mapping of the file. Unknown keys are errors, wrong types are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    def problems(self) -> Iterator[Problem]:
        """Yield each value of this section that cannot be used, with its place below the section.

        Sections below this one report their own problems.
        """
        yield from ()

    def needs(self) -> Iterator[Need]:
        """Yield the files and directories of this section that workers read. Sections below it yield their own."""
        yield from ()


def all_problems(value: Any, where: KeyPath = ()) -> Iterator[Problem]:
    """Yield the problems of the section *value* and of all sections below it, with places from the top."""
    if isinstance(value, Section):
        yield from (((*where, *path), text) for path, text in value.problems())
        for name, info in type(value).model_fields.items():
            yield from all_problems(getattr(value, name), (*where, info.alias or name))
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from all_problems(entry, (*where, str(i)))
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from all_problems(entry, (*where, str(key)))


def dotted_path(path: KeyPath) -> str:
    """Return ("content", "sites", "0", "root") as "content.sites[0].root"."""
    text = ""
    for step in path:
        text += f"[{step}]" if step.isdigit() and text else f".{step}" if text else step
    return text
