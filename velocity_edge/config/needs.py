"""Files and directories that a configuration names and that a worker cannot open any more: who opens them for it.

A section yields its own in `needs` (section.py). The supervisor opens them once per revision (supervisor/machine/
materials.py), watches them for changes (supervisor/chores/watch.py), and sends descriptors to the workers; `config
lint` and `serve --dry-run` check that they can be opened. Certificates of the node itself are not among them: the
supervisor reads those.

Short because each section knows its own files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from velocity_edge.config.model import Config
from velocity_edge.config.section import KeyPath, Need, Section


def files_of(config: Config) -> Iterator[Need]:
    """Yield what *config* names, each path once, `where` from the top: ("content", "sites", "0", "root")."""
    seen = set()
    for need in _all_needs(config, ()):
        if need.path not in seen:
            seen.add(need.path)
            yield need


def _all_needs(value: Any, where: KeyPath) -> Iterator[Need]:
    if isinstance(value, Section):
        for need in value.needs():
            yield Need(need.path, need.kind, (*where, *need.where), required=need.required)
        for name, info in type(value).model_fields.items():
            yield from _all_needs(getattr(value, name), (*where, info.alias or name))
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield from _all_needs(entry, (*where, str(i)))
