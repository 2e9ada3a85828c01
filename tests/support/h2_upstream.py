"""An HTTP/2 server of a few lines on the h2 package, for what real servers cannot be made to do. Frames are scripted.

A script gets the parser, the id of the stream and its fields as soon as the request head is there; what it leaves in
the parser is sent. `on_data` gets the bytes of bodies; they are credited.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived
from h2.settings import SettingCodes, Settings

Fields = dict[bytes, bytes]
Script = Callable[[H2Connection, int, Fields], None]


@dataclass
class H2Upstream:
    """What the server has seen, and its address."""

    script: Script
    max_streams: int = 100
    connect_protocol: bool = False
    first: bytes = b""
    credit: bool = True
    port: int = 0
    connections: int = 0
    requests: list[Fields] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    bodies: dict[int, bytes] = field(default_factory=dict)
    parsers: list[H2Connection] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    on_data: Callable[[H2Connection, int, bytes], None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def flush(self) -> None:
        """Send what a test has put into the parsers."""
        for parser, writer in zip(self.parsers, self.writers, strict=True):
            if not writer.is_closing():
                writer.write(parser.data_to_send())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        parser = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        values = {SettingCodes.MAX_CONCURRENT_STREAMS: self.max_streams}
        values[SettingCodes.ENABLE_CONNECT_PROTOCOL] = int(self.connect_protocol)
        parser.local_settings = Settings(client=False, initial_values=values)
        parser.initiate_connection()
        self.parsers.append(parser)
        self.writers.append(writer)
        writer.write(self.first or parser.data_to_send())
        try:
            while data := await reader.read(65536):
                for event in parser.receive_data(data):
                    self._on_event(parser, event)
                writer.write(parser.data_to_send())
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    def _on_event(self, parser: H2Connection, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, RequestReceived):
            fields = dict(event.headers)
            self.requests.append(fields)
            self.script(parser, event.stream_id, fields)
        elif isinstance(event, DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            if self.credit and event.flow_controlled_length:
                parser.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            if self.on_data is not None:
                self.on_data(parser, event.stream_id, event.data)


@asynccontextmanager
async def h2_upstream(
    upstream: H2Upstream, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[H2Upstream]:
    """Serve until the end of the block."""
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", port, ssl=tls)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for writer in upstream.writers:
            writer.close()
        await asyncio.sleep(0)
