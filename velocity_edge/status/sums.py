"""Sums of what all workers of a node measured: those that live, and those that have ended. Pure.

A worker reports totals since its start (`Measured`), so a lost or repeated report changes nothing. When it ends, its
counters and histograms are added to those of ended workers, and its gauges disappear. So a counter of the node never
falls, with two exceptions, which Prometheus sees as a reset: a series is removed when its subject is gone from all
workers, and a worker that dies together with its supervisor loses what it measured after the last save
(supervisor/succession/sums_file.py). Without any worker to adopt everything restarts at zero.

A report is taken as far as families.py declares it: other families, series with another number of labels or numbers,
and what is not a finite number >= 0 are ignored, because a worker may be of another version, or compromised. The number
of series is bounded here, too: upstreams that come and go with reloads would add up otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from velocity_edge.status.families import FAMILIES, OTHER, Family

Labels = tuple[str, ...]
#: Family -> labels -> numbers.
Table = dict[str, dict[Labels, list[float]]]

_REFUSED: Final = "velocity_metric_series_refused_total"
#: A host name has 253 characters at most; a label that is longer is cut.
_MAX_LABEL: Final = 256


class Sums:
    """What the workers of one node measured."""

    def __init__(self) -> None:
        self._ended: Table = {}
        self._living: dict[int, Table] = {}
        #: Series that exist, per family: the bound is on these, so that a series never changes into `other`.
        self._known: dict[str, set[Labels]] = {name: set() for name in FAMILIES}
        self._refused: dict[str, int] = {}

    def take(
        self,
        worker_id: int,
        series: Mapping[str, Iterable[tuple[Sequence[str], Sequence[float]]]],
        gone: Mapping[str, Iterable[Sequence[str]]] | None = None,
    ) -> None:
        """Take the report of a living worker."""
        table = self._living.setdefault(worker_id, {})
        for name, keys in (gone or {}).items():
            for key in map(_key, keys):
                if table.get(name, {}).pop(key, None) is not None:
                    self._forget(name, key)
        for name, entries in series.items():
            family = FAMILIES.get(name)
            if family is None:
                continue
            own = table.setdefault(name, {})
            for labels, numbers in entries:
                if len(labels) != len(family.labels) or len(numbers) != family.width or not _sound(family, numbers):
                    continue
                key = _key(labels)
                if key in own or self._admit(family, key, len(own)):
                    own[key] = list(numbers)

    def ended(self, worker_id: int) -> None:
        """A worker has ended."""
        for name, by_labels in self._living.pop(worker_id, {}).items():
            if FAMILIES[name].kind == "gauge":
                continue
            self._add_all(name, self._ended.setdefault(name, {}), by_labels)

    def table(self) -> Table:
        """Return the sums over all workers. Families without a series are missing."""
        total: Table = {}
        for table in (self._ended, *self._living.values()):
            for name, by_labels in table.items():
                self._add_all(name, total.setdefault(name, {}), by_labels)
        if self._refused:
            into = total.setdefault(_REFUSED, {})
            for name, times in self._refused.items():
                _add(into, (name,), [times])
        return total

    # --- for a successor ---------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Return everything, for `from_json` of this or another version."""
        return {
            "ended": _listed(self._ended),
            "living": {str(worker_id): _listed(table) for worker_id, table in self._living.items()},
        }

    @classmethod
    def from_json(cls, document: Any, living: Iterable[int]) -> Sums:
        """Return the sums that *document* has; workers that are not among *living* have ended since.

        What cannot be understood is left out.
        """
        sums = cls()
        if not isinstance(document, dict):
            return sums
        saved = document.get("living")
        tables = {**saved} if isinstance(saved, dict) else {}
        # -1 is no worker: what had ended before takes the same way as what ends now.
        for name, table in {"-1": document.get("ended"), **tables}.items():
            if isinstance(table, dict) and len(name) < 8 and name.removeprefix("-").isdecimal():
                sums.take(int(name), {family: _entries(entries) for family, entries in table.items()})
        for worker_id in [*sums._living]:
            if worker_id not in set(living):
                sums.ended(worker_id)
        return sums

    # --- series ------------------------------------------------------------------------------------------------------

    def _admit(self, family: Family, labels: Labels, held: int) -> bool:
        """Take a new series of a worker that has *held* of this family; above the bound, count it as `other`."""
        known = self._known[family.name]
        if labels in known:
            return True
        if len(known) < family.max_series or labels == _others(family):
            known.add(labels)
            return True
        self._refused[family.name] = self._refused.get(family.name, 0) + 1
        return held <= family.max_series

    def _add_all(self, name: str, total: dict[Labels, list[float]], by_labels: dict[Labels, list[float]]) -> None:
        known, others = self._known[name], _others(FAMILIES[name])
        for labels, numbers in by_labels.items():
            _add(total, labels if labels in known else others, numbers)

    def _forget(self, name: str, labels: Labels) -> None:
        """Drop a series that no living worker has any more."""
        if not any(labels in table.get(name, {}) for table in self._living.values()):
            self._ended.get(name, {}).pop(labels, None)
            self._known[name].discard(labels)


def _others(family: Family) -> Labels:
    return (OTHER,) * len(family.labels)


def _key(labels: Sequence[str]) -> Labels:
    return tuple(label[:_MAX_LABEL] for label in labels)


def _sound(family: Family, numbers: Sequence[float]) -> bool:
    if not all(math.isfinite(number) for number in numbers):
        return False
    return family.kind == "gauge" or min(numbers) >= 0


def _add(total: dict[Labels, list[float]], labels: Labels, numbers: Sequence[float]) -> None:
    before = total.get(labels)
    total[labels] = list(numbers) if before is None else [a + b for a, b in zip(before, numbers, strict=True)]


def _listed(table: Table) -> dict[str, list[tuple[list[str], list[float]]]]:
    return {
        name: [(list(labels), numbers) for labels, numbers in by_labels.items()] for name, by_labels in table.items()
    }


def _entries(entries: Any) -> list[tuple[list[str], list[float]]]:
    """Return the entries of one family that have the right types."""
    found: list[tuple[list[str], list[float]]] = []
    for entry in entries if isinstance(entries, list) else ():
        match entry:
            case [[*labels], [*numbers]] if all(isinstance(label, str) for label in labels) and all(
                isinstance(number, int | float) for number in numbers
            ):
                found.append((labels, numbers))
            case _:
                pass
    return found
