"""An operator's quiesce outlives a node that its service manager restarts: `<state>/quiesced-INSTANCE.json`.

"Quiesce, wait, deploy, restart the service, validate, resume" needs it: a node that came back serving would take
clients before anybody has validated it. The file is there as long as the node is quiesced or draining, and stays when
it is stopped by SIGTERM or killed. A stop by a person (`admin stop`, Ctrl-C) removes it; a reboot makes it void. It is
in the state directory, because a service manager removes the runtime directory between `stop` and `start`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from supervisor.machine.kept import KeptFile
from supervisor.node.happenings import Started
from supervisor.node.requests import Requests
from supervisor.succession.state_file import SavedDrain, SavedQuiesce, boot_id
from supervisor.succession.translate import drain_of, quiesce_of, saved_drain, saved_quiesce
from velocity_edge.atomic_file import read_file

log = logging.getLogger("supervisor")


@dataclass(frozen=True, slots=True)
class _Content:
    boot_id: str
    quiesced: SavedQuiesce
    #: The drain that it belongs to: it has a disable file.
    drain: SavedDrain | None = None


#: Two reasons of 500 characters, and numbers.
_MAX_BYTES: Final = 65_536
_ADAPTER = TypeAdapter(_Content)


class Remembered:
    """The file of one node."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._boot_id = boot_id()
        self._kept = KeptFile(file, "a node that is started again would not know whether it was quiesced", sync=True)

    def load(self) -> Started:
        """Return what a node begins with that was stopped in this boot and left nobody behind."""
        try:
            content = _ADAPTER.validate_json(read_file(self._file, _MAX_BYTES))
        except FileNotFoundError:
            return Started()
        except (OSError, ValidationError, ValueError) as error:
            log.error("cannot read %s: %s; if the node was quiesced, it is not any more", self._file, error)
            return Started()
        if content.boot_id != self._boot_id:
            return Started()
        return Started(quiesced=quiesce_of(content.quiesced), contract=drain_of(content.drain))

    def keep(self, node: Requests) -> None:
        """Make the file say what is so. It is written when that changes, never by the clock."""
        content = None
        if wish := node.quiesced or node.quiesce_first:
            contract = node.contract
            drain = saved_drain(contract) if contract and not contract.running and not contract.released else None
            content = _Content(self._boot_id, saved_quiesce(wish), drain)
        self._write(content)

    def forget(self) -> None:
        """The node stops because a person said so."""
        self._write(None)

    @property
    def problem(self) -> str:
        """What `status` says of the file."""
        return self._kept.problem

    def retry(self) -> None:
        """Try again what failed."""
        self._kept.retry()

    def _write(self, content: _Content | None) -> None:
        self._kept.should_be(None if content is None else _ADAPTER.dump_json(content))
