"""The upstream of the comparisons: it keeps every byte that a proxy sends, and answers what a case says.

`strict_requests` parses what arrived as a server that trusts its proxy in nothing would: one message after the other,
by RFC 9112, where anything unusual is an error. A smuggled request shows as a second message, or as such an error.
"""

from __future__ import annotations

import re
import socketserver
import threading
import time
from dataclasses import dataclass, field

_REQUEST = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (/[!-~]*|\*) HTTP/1\.1")
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)"
)
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Message:
    """One request as it arrived."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)

    def get(self, name: bytes) -> bytes | None:
        values = [value for key, value in self.fields if key.lower() == name]
        return b", ".join(values) if values else None


class Unclean(Exception):
    """Bytes that no proxy may send to an upstream."""


def strict_requests(data: bytes) -> tuple[list[Message], bytes]:
    """Return the complete requests in *data*, and the bytes of one that is not complete. Raises `Unclean`."""
    found: list[Message] = []
    while data:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            if b"\n" in head.replace(b"\r\n", b"") or b"\0" in head:
                raise Unclean(f"line ends: {head[:80]!r}")
            return found, data
        first, *lines = head.split(b"\r\n")
        start = _REQUEST.fullmatch(first)
        if start is None:
            raise Unclean(f"request line: {first[:80]!r}")
        message = Message(start[1], start[2], [_field(line) for line in lines])
        complete = _take_body(message, rest)
        if complete is None:
            return found, data
        data = complete
        found.append(message)
    return found, b""


def _field(line: bytes) -> tuple[bytes, bytes]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise Unclean(f"field: {line[:80]!r}")
    return match[1], match[2]


def _take_body(message: Message, data: bytes) -> bytes | None:
    """Move the body into the message; return what follows, None when it is not complete."""
    lengths = [value for name, value in message.fields if name.lower() == b"content-length"]
    codings = [value for name, value in message.fields if name.lower() == b"transfer-encoding"]
    if (lengths and codings) or len(lengths) > 1 or len(codings) > 1:
        raise Unclean(f"framing: {lengths} {codings}")
    if codings:
        if codings != [b"chunked"]:
            raise Unclean(f"transfer-encoding: {codings}")
        return _take_chunks(message, data)
    if lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise Unclean(f"content-length: {lengths}")
    length = int(lengths[0]) if lengths else 0
    if len(data) < length:
        return None
    message.body = data[:length]
    return data[length:]


def _take_chunks(message: Message, data: bytes) -> bytes | None:
    while True:
        line, end, rest = data.partition(b"\r\n")
        if not end:
            return None
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,16}", line):
            raise Unclean(f"chunk: {line[:40]!r}")
        size = int(line, 16)
        if size == 0:
            trailers, end, after = (b"\r\n" + rest).partition(b"\r\n\r\n")
            if not end:
                return None
            message.trailers = [_field(one) for one in trailers.split(b"\r\n") if one]
            return after
        if len(rest) < size + 2:
            return None
        if rest[size : size + 2] != b"\r\n":
            raise Unclean("a chunk does not end with CRLF")
        message.body += rest[:size]
        data = rest[size + 2 :]


class Recorder(socketserver.ThreadingTCPServer):
    """The server. `answers` maps a request's path (without the query) to the bytes that are sent for it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port: int = self.server_address[1]
        #: All bytes of each connection, in the order of the connections.
        self.streams: list[bytearray] = []
        self.answers: dict[bytes, bytes] = {}
        #: Paths after whose answer the connection is closed.
        self.closing: set[bytes] = set()

    def __enter__(self) -> Recorder:
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A proxy that resets a connection is no error here."""

    def forget(self) -> None:
        """Forget what arrived; connections go on, with empty records."""
        for stream in self.streams:
            stream.clear()

    def messages(self) -> list[Message]:
        """Return the complete requests of all connections. Raises `Unclean`."""
        return [message for stream in self.streams for message in strict_requests(bytes(stream))[0]]


class _Handler(socketserver.BaseRequestHandler):
    server: Recorder

    def handle(self) -> None:
        record = bytearray()
        self.server.streams.append(record)
        pending = b""
        while data := self.request.recv(65536):
            record += data
            pending += data
            try:
                complete, pending = strict_requests(pending)
            except Unclean:
                # Answer all the same, so that the proxy shows what it makes of it.
                self.request.sendall(PLAIN)
                pending = b""
                continue
            for message in complete:
                path = message.target.partition(b"?")[0]
                answer = self.server.answers.get(path, PLAIN)
                for part in answer.split(b"<pause>"):
                    self.request.sendall(part)
                    if part is not answer:
                        time.sleep(0.02)
                if path in self.server.closing:
                    return
