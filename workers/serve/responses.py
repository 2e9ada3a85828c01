"""From responses to the engine: complete bodies at once, others chunk by chunk within the budget of the turns.

A response whose file would exceed the connection's share of open files becomes a 503 (open_files.py). A failure after
the head was sent resets the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable
from typing import Final

from velocity_edge.http.requests import FileRange, RequestReceived, Requests
from workers.handlers.static.open_files import OpenFiles
from workers.http import H3_INTERNAL_ERROR, BodyCutShort, Headers, Response, plain
from workers.serve.exchange import Exchange
from workers.serve.failures import CutShort, internal_error
from workers.serve.turns import Turns

#: Bodies that an engine takes as a whole; others are chunks that are produced later.
COMPLETE: Final = (bytes, FileRange, type(None))


class Responses:
    """Sends the responses of one worker."""

    def __init__(
        self,
        engine: Requests,
        flush_soon: Callable[[], None],
        turns: Turns,
        open_files: OpenFiles,
        cut_short: CutShort,
        send_high_bytes: int,
    ) -> None:
        """*flush_soon* has the engine's packets sent after this turn.

        *send_high_bytes*: unsent bytes of a stream above which its producer is paused.
        """
        self._engine = engine
        self._respond = engine.respond
        self._flush_soon = flush_soon
        self._turns = turns
        self._open_files = open_files
        self._cut_short = cut_short
        self.send_high_bytes = send_high_bytes
        #: Responses that were replaced by a 503 because their connection holds too many open files.
        self.refused = 0

    def within_bounds(self, event: RequestReceived, response: Response) -> Response:
        """Return *response*, or a 503 when its connection holds too many open files."""
        if self._open_files.may_send(event.connection, response.body):
            return response
        self.refused += 1
        return plain(503, "", (b"retry-after", b"1"))

    def send(self, exchange: Exchange, response: Response) -> bool:
        """Send a response whose body is complete. Return whether the stream still exists."""
        exchange.answered = True
        body = response.body
        assert isinstance(body, COMPLETE)
        if not self._respond(exchange.stream, response.status, response.headers, body):
            return False
        self._open_files.sent(exchange.connection, exchange.stream, body)
        return True

    def inform(self, stream: int, status: int, headers: Headers) -> None:
        """Send an informational response, such as 103. 100 is sent when the body is read (exchange.py)."""
        if status > 101 and self._respond(stream, status, headers, None, fin=False):
            self._flush_soon()

    async def stream(
        self, exchange: Exchange, response: Response, chunks: AsyncIterable[bytes], event: RequestReceived
    ) -> int:
        """Send head and chunks; wait whenever the peer is behind. Return the bytes of the body."""
        engine, stream = self._engine, exchange.stream
        exchange.answered = True
        sent = 0
        if not engine.respond(stream, response.status, response.headers, None, fin=False):
            return 0
        self._flush_soon()  # the first chunk may be long in coming
        self._open_files.sent(exchange.connection, stream, chunks)
        try:
            async for chunk in chunks:
                buffered = engine.write(stream, chunk, fin=False)
                if buffered < 0:
                    return sent
                sent += len(chunk)
                self._flush_soon()
                behind, over = buffered > self.send_high_bytes, self._turns.used
                if behind or over:
                    exchange.writable = asyncio.get_running_loop().create_future()
                    if not behind:
                        self.resume(exchange)
                    await exchange.writable
                    exchange.writable = None
            trailers = response.trailers() if response.trailers is not None else ()
            if trailers:
                engine.trailers(stream, trailers)
            else:
                engine.write(stream, b"", fin=True)
        except BodyCutShort as error:
            self._cut_short.add(error, event)
            engine.reset(stream, H3_INTERNAL_ERROR)
        except Exception as error:
            internal_error(error, event)
            engine.reset(stream, H3_INTERNAL_ERROR)
        return sent

    def resume(self, exchange: Exchange) -> None:
        """Resume the exchange's task, within the budget of this turn or of a later one."""
        if self._turns.over:
            self._turns.later(exchange.connection, exchange.stream, lambda: self._wake(exchange))
        else:
            self._wake(exchange)

    def _wake(self, exchange: Exchange) -> None:
        if exchange.writable is not None and not exchange.writable.done():
            self._turns.charge_step()
            exchange.writable.set_result(None)
