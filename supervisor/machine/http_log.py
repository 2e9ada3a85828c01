"""The log of aiohttp servers: errors of this program with their traceback, and no errors of the peer.

An invalid request is answered with 400 and closed. aiohttp logs each of them with a traceback: a peer that reaches the
metrics port could fill the log, and an operator would look for a bug. Short because it is one filter, which all servers
of the supervisor share.
"""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

log = logging.getLogger("supervisor.http")

#: Errors that a peer causes: an invalid request, an incomplete body, a closed connection.
PEER_ERRORS = (HttpProcessingError, web.RequestPayloadError, ConnectionError, TimeoutError)


def _is_internal(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], PEER_ERRORS))


log.addFilter(_is_internal)
