"""`<state>/quiesced-INSTANCE.json`: an operator's quiesce outlives a restart of the service.

"Quiesce, wait, deploy, restart the service, validate, resume" needs it: a node that started serving would take clients
before it has been validated. The file exists as long as the node is quiesced or draining, and stays when it is stopped
by SIGTERM or killed. A stop by an operator (`admin stop`, Ctrl-C) removes it; a reboot makes it void. It is in the
state directory, because a service manager removes the runtime directory between `stop` and `start`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from supervisor.machine.kept import KeptFile
from supervisor.node.happenings import Started
from supervisor.node.state import State
from supervisor.succession.saved_state import SavedDrain, SavedQuiesce
from supervisor.succession.state_file import boot_id
from velocity_edge.atomic_file import read_file

log = logging.getLogger("supervisor")


@dataclass(frozen=True, slots=True)
class _Content:
    boot_id: str
    quiesced: SavedQuiesce
    #: The drain that it belongs to: it has a disable file.
    drain: SavedDrain = None


#: Two reasons of 500 characters, and numbers.
_MAX_BYTES: Final = 65_536
_ADAPTER = TypeAdapter(_Content)


class QuiescedFile:
    """The file of one node."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._boot_id = boot_id()
        self._kept = KeptFile(file, "a node that is started again would not know whether it was quiesced", sync=True)

    def load(self) -> Started:
        """Return the first happening of a node that was stopped in this boot and left no workers."""
        try:
            content = _ADAPTER.validate_json(read_file(self._file, _MAX_BYTES))
        except FileNotFoundError:
            return Started()
        except (OSError, ValidationError, ValueError) as error:
            log.error("cannot read %s: %s; a node that was quiesced starts serving", self._file, error)
            return Started()
        if content.boot_id != self._boot_id:
            return Started()
        return Started(quiesced=content.quiesced, contract=content.drain)

    def keep(self, node: State) -> None:
        """Write what the node is now. The file is written when that changes, never by a timer."""
        content = None
        if wish := node.quiesced or node.quiesce_first:
            contract = node.contract
            drain = contract if contract and not contract.running and not contract.released else None
            content = _Content(self._boot_id, wish, drain)
        self._write(content)

    def forget(self) -> None:
        """Remove the file: an operator stops the node."""
        self._write(None)

    @property
    def problem(self) -> str:
        """What is wrong with the file, for `status`."""
        return self._kept.problem

    def retry(self) -> None:
        """Try again to write what could not be written."""
        self._kept.retry()

    def _write(self, content: _Content | None) -> None:
        self._kept.should_be(None if content is None else _ADAPTER.dump_json(content))
