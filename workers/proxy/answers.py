"""What a client gets when no upstream answers: a status, a short text, and when to come again.

Texts do not say which server failed or how: that is in the access log and the metrics.

Short because it is a table.
"""

from __future__ import annotations

from typing import Final

from velocity_edge.http.requests import Outcome
from workers.http import Response, plain

_ANSWERS: Final[dict[Outcome, tuple[int, str]]] = {
    Outcome.CONNECT_FAILED: (502, "The server behind this site cannot be reached."),
    Outcome.CONNECT_TIMEOUT: (504, "The server behind this site cannot be reached in time."),
    Outcome.CLOSED_EARLY: (502, "The server behind this site closed the connection without an answer."),
    Outcome.RESPONSE_TIMEOUT: (504, "The server behind this site did not answer in time."),
    Outcome.INVALID: (502, "The server behind this site sent an answer that is not valid."),
    Outcome.REQUEST_TOO_LARGE: (413, ""),
    Outcome.REQUEST_TIMEOUT: (408, ""),
    Outcome.IDLE_TIMEOUT: (504, "The server behind this site did not answer in time."),
    Outcome.TRUNCATED: (502, "The server behind this site closed the connection without an answer."),
    Outcome.CANCELLED: (503, ""),
}


def answer_to(outcome: Outcome) -> Response:
    """Return the response to a request whose last attempt ended so, before the head of a response."""
    status, text = _ANSWERS.get(outcome, (502, ""))
    return plain(status, text)


def too_busy(retry_after_s: int = 1) -> Response:
    """Return the 503 for a request that finds all connections in use and the queue full, or waited too long."""
    return plain(503, "The server behind this site is busy.", (b"retry-after", b"%d" % retry_after_s))
