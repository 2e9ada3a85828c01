"""The body of a request, from the client to the upstream, while the response may already arrive.

One chunk is read when the one before was accepted, so that an upstream that is behind stops the client. A client that
waits for 100 (Continue) sends its body when this file begins to read it: after the upstream has said so, or after a
second, because a server may never say it (RFC 9110 section 10.1.1). Failures are reported to the exchange.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from velocity_edge.http.requests import Headers, Outcome
from workers.proxy.client.exchange import Exchange

_CONTINUE_S: Final = 1.0
#: What is written at once of a chunk; progress is noted, and room waited for, between two of them.
_PIECE_BYTES: Final = 65_536


async def upload(
    exchange: Exchange, body: AsyncIterator[bytes], trailers: Callable[[], Headers], max_bytes: int, *, expects: bool
) -> None:
    """Send *body*, then *trailers*. *max_bytes* does not apply to a tunnel."""
    try:
        if expects:
            await asyncio.wait([exchange.invited], timeout=_CONTINUE_S)
        if exchange.tunnel:
            await asyncio.wait([exchange.head])
            if not exchange.tunnel:
                return  # refused: it has no body
        elif expects and exchange.status:
            return  # answered without the body: the connection ends with the response
        while not exchange.over:
            exchange.waits_for_client = True
            chunk = await anext(body, None)
            exchange.waits_for_client = False
            if chunk is None:
                break
            exchange.active()
            exchange.attempt.request_bytes += len(chunk)
            if exchange.attempt.request_bytes > max_bytes and not exchange.tunnel:
                exchange.fail(Outcome.REQUEST_TOO_LARGE, f"a request body of more than {max_bytes} bytes")
                return
            for at in range(0, len(chunk), _PIECE_BYTES):
                exchange.attempt.body_sent = True
                await exchange.link.send(exchange, chunk[at : at + _PIECE_BYTES])
                exchange.active()
        if not exchange.over:
            exchange.end_upload()
            exchange.link.finish(exchange, trailers())
    except Exception as error:  # of the body: the requester raises it
        exchange.fail_with(error)
