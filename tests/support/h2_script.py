"""Scripts for `Upstream` (upstream_world.py) that speak HTTP/2 by the h2 package: one function per event, in a thread.

site = H2Site(on_request=lambda link, stream, fields: link.answer(stream, b"hello"))
with Upstream(site.script) as upstream, forwarding(upstream, settings=H2C) as world: ...
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes, Settings

from velocity_edge.http.upstreams import PoolSettings

Fields = list[tuple[bytes, bytes]]
H2C = PoolSettings(protocol="h2")
#: RFC 9113 section 3.4.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return an HTTP/2 frame as it is on the wire."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@dataclass
class Request:
    """What a stream has brought."""

    fields: dict[bytes, bytes]
    raw: Fields
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    ended: bool = False
    reset: int | None = None


class Link:
    """One connection of a site."""

    def __init__(self, site: H2Site, connection: socket.socket) -> None:
        self.site, self.socket = site, connection
        self.parser = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.parser.local_settings = Settings(client=False, initial_values=dict(site.settings))
        self.streams: dict[int, Request] = {}
        #: What does not fit into the client's windows.
        self.waiting: dict[int, tuple[bytes, Fields | None]] = {}

    def run(self) -> None:
        self.parser.initiate_connection()
        self.flush()
        self.socket.setblocking(False)
        while True:
            select.select([self.socket], [], [], 0.02)
            try:
                data = self.socket.recv(65_536)
            except (BlockingIOError, ssl.SSLWantReadError):
                self._send_waiting()
                self.site.on_idle(self)
                self.flush()
                continue
            if not data:
                return
            for event in self.parser.receive_data(data):
                self._on_event(event)
            self._send_waiting()
            self.flush()

    def flush(self) -> None:
        data = self.parser.data_to_send()
        while data:
            try:
                data = data[self.socket.send(data) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                select.select([], [self.socket], [], 5)

    def _on_event(self, event: Any) -> None:
        if isinstance(event, RequestReceived):
            request = self.streams[event.stream_id] = Request(dict(event.headers), list(event.headers))
            self.site.requests.append(request)
            self.site.on_request(self, event.stream_id, request)
        elif isinstance(event, DataReceived):
            self.streams[event.stream_id].body += event.data
            if self.site.credits and event.flow_controlled_length:
                self.parser.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.site.on_data(self, event.stream_id, event.data)
        elif isinstance(event, TrailersReceived):
            self.streams[event.stream_id].trailers = list(event.headers)
        elif isinstance(event, StreamEnded):
            self.streams[event.stream_id].ended = True
            self.site.on_end(self, event.stream_id)
        elif isinstance(event, StreamReset):
            self.streams[event.stream_id].reset = event.error_code
            self.waiting.pop(event.stream_id, None)

    def head(self, stream: int, status: int = 200, *fields: tuple[bytes, bytes], end: bool = False) -> None:
        self.parser.send_headers(stream, [(b":status", b"%d" % status), *fields], end_stream=end)

    def send(self, stream: int, data: bytes, *, end: bool = True, trailers: Fields | None = None) -> None:
        """Send as the windows permit; then end, with trailers if there are any."""
        before, _ = self.waiting.get(stream, (b"", None))
        self.waiting[stream] = (before + data, (trailers or []) if end else None)
        self._send_waiting()

    def answer(
        self, stream: int, body: bytes = b"", *fields: tuple[bytes, bytes], trailers: Fields | None = None
    ) -> None:
        self.head(stream, 200, *fields)
        self.send(stream, body, trailers=trailers)

    def _send_waiting(self) -> None:
        for stream, (data, last) in list(self.waiting.items()):
            try:
                while data and (room := min(self.parser.local_flow_control_window(stream), 16_384)) > 0:
                    self.parser.send_data(stream, data[:room])
                    data = data[room:]
                if data or last is None:
                    self.waiting[stream] = (data, last)
                    continue
                del self.waiting[stream]
                if last:
                    self.parser.send_headers(stream, last, end_stream=True)
                else:
                    self.parser.end_stream(stream)
            except StreamClosedError:
                self.waiting.pop(stream, None)


@dataclass
class H2Site:
    """What all connections of an upstream do, and what they got."""

    on_request: Callable[[Link, int, Request], None] = lambda link, stream, request: None
    on_data: Callable[[Link, int, bytes], None] = lambda link, stream, data: None
    on_end: Callable[[Link, int], None] = lambda link, stream: None
    on_idle: Callable[[Link], None] = lambda link: None
    max_streams: int = 100
    connect_protocol: bool = False
    window: int = 65_535
    #: Whether bodies of requests get window back.
    credits: bool = True
    requests: list[Request] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)

    @property
    def settings(self) -> dict[int, int]:
        return {
            SettingCodes.MAX_CONCURRENT_STREAMS: self.max_streams,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: int(self.connect_protocol),
            SettingCodes.INITIAL_WINDOW_SIZE: self.window,
        }

    def script(self, connection: socket.socket) -> None:
        link = Link(self, connection)
        self.links.append(link)
        link.run()
