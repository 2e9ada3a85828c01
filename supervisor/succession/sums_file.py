"""`<runtime>/measured.json`: what workers measured (velocity_edge/status/sums.py), for the next supervisor.

Living workers report all of it anew to a successor; the file has what ended workers had measured, and what the others
had reported by the last save, in case they do not come back. It is written when a worker ends, when an upgrade begins,
and every `SAVE_S`. Losing it costs no more than counters that restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import orjson

from supervisor.machine.kept import KeptFile
from velocity_edge.atomic_file import read_file
from velocity_edge.status.sums import Sums

#: What a worker measured in this time is lost when it dies together with its supervisor.
SAVE_S: Final = 10.0
#: Two thousand series of histograms for each of 256 workers are less.
_MAX_BYTES: Final = 256 * 2**20


class SumsFile:
    """The file of one node."""

    def __init__(self, runtime: Path) -> None:
        self._file = KeptFile(runtime / "measured.json", "after a restart of the supervisor counters begin at zero")
        self._saved_s = -math.inf

    @property
    def problem(self) -> str:
        """The trouble, for `status`; empty when there is none."""
        return self._file.problem

    def save(self, sums: Sums, now_s: float | None = None) -> None:
        """Write the file; with *now_s*, only when the last save is old."""
        if now_s is not None:
            if now_s < self._saved_s + SAVE_S:
                return
            self._saved_s = now_s
        self._file.should_be(orjson.dumps(sums.to_json()))

    def load(self, living: Iterable[int]) -> Sums:
        """Return what an earlier supervisor saved. *living*: the workers that came back."""
        try:
            document = orjson.loads(read_file(self._file.path, _MAX_BYTES))
        except (OSError, ValueError):
            return Sums()
        return Sums.from_json(document, living)

    def forget(self) -> None:
        """Remove the file: the node has stopped."""
        self._file.should_be(None, again=True)
