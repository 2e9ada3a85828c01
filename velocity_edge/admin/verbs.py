"""The table of verbs: what can be asked, with which request, and what the answer has for scripts. Pure.

A new verb is a row here, a request in requests.py, an operation in supervisor/admin/service.py and a command in
velocity_edge/cli. Tests walk the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from velocity_edge.admin import answers, requests
from velocity_edge.admin.answers import Facts
from velocity_edge.admin.requests import Request


@dataclass(frozen=True, slots=True)
class Verb:
    """One row."""

    #: The last part of the path: POST /v1/NAME.
    name: str
    request: type[Request]
    #: Kinds of facts that lines of the answer may have.
    facts: tuple[type[Facts], ...] = ()
    #: Only root and the user of the supervisor may ask; others need no more than access to the socket.
    owner_only: bool = False

    @property
    def path(self) -> str:
        """Return the path of the HTTP request."""
        return f"/v1/{self.name}"

    @property
    def secret(self) -> frozenset[str]:
        """Return the fields of the request that must not be logged."""
        return frozenset(field.name for field in fields(self.request) if field.metadata.get("secret"))


VERBS: Final = (
    Verb("quiesce", requests.Quiesce, (answers.LeftTooLong, answers.QuiesceProgress, answers.Left)),
    Verb("drain", requests.Drain, (answers.DrainProgress,)),
    Verb("resume", requests.Resume),
    Verb("restart", requests.Restart, (answers.Restarted,)),
    Verb("reload", requests.Reload, (answers.Reloaded,)),
    Verb("config", requests.ShowConfig, (answers.Configured,), owner_only=True),
    Verb("upgrade", requests.Upgrade, (answers.Upgrading,), owner_only=True),
    Verb("abort", requests.Abort, (answers.Aborted,), owner_only=True),
    Verb("scale", requests.Scale),
    Verb("log-level", requests.LogLevel),
    Verb("stop", requests.Stop, owner_only=True),
    Verb("tickets/rotate", requests.RotateKeys, (answers.OnEpochs,), owner_only=True),
    Verb("tickets/expire", requests.ExpireKeys, (answers.OnEpochs,), owner_only=True),
    Verb("tickets/export", requests.ExportKeys, (answers.Exported,), owner_only=True),
    Verb("tickets/import", requests.ImportKeys, (answers.OnEpochs,), owner_only=True),
)
_BY_REQUEST: Final[Mapping[type[Request], Verb]] = {verb.request: verb for verb in VERBS}


def verb_of(request: Request) -> Verb:
    """Return the verb that *request* belongs to."""
    return _BY_REQUEST[type(request)]
