"""What aiohttp logs of requests: bugs of ours with their traceback, and nothing of what is wrong with the request.

A request that is no HTTP is answered with 400 and closed. aiohttp logs each of them with a traceback, so that whoever
reaches the metrics port could fill the log and make an operator look for a bug.
"""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

log = logging.getLogger("supervisor.http")

#: What a peer can cause: nonsense, half a body, hanging up.
THEIRS = (HttpProcessingError, web.RequestPayloadError, ConnectionError, TimeoutError)


def _ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], THEIRS))


log.addFilter(_ours)
