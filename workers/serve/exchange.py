"""The state of one request that did not end in the turn in which it began; what happens to it is in exchanges.py."""

from __future__ import annotations

import asyncio

from workers.http import Body


class Exchange:
    """One request that did not end in the turn in which it began."""

    __slots__ = ("answered", "body", "connection", "stream", "task", "unwanted_bytes", "writable")

    def __init__(self, connection: int, stream: int, body: Body) -> None:
        self.connection = connection
        self.stream = stream
        self.body = body
        self.task: asyncio.Task[None] | None = None
        #: What its coroutine waits for: room to send, or its turn.
        self.writable: asyncio.Future[None] | None = None
        #: The head of the answer went out.
        self.answered = False
        self.unwanted_bytes = 0
