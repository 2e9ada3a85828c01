"""An upstream that does what a script says, over real sockets, in threads: for clients in any process or loop.

A script is chosen by the path of the request. Every request is kept as it came, for tests of what is written.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: What a script consists of.
Step = tuple[Any, ...]


def send(data: bytes) -> Step:
    return ("send", data)


def flood(data: bytes, n_bytes: int) -> Step:
    """Send *data* again and again until *n_bytes* were sent, or the other side has gone."""
    return ("flood", data, n_bytes)


def pause(seconds: float) -> Step:
    """Wait that long, or until the test ends."""
    return ("pause", seconds)


RESET: Step = ("reset",)
#: Send FIN, and wait until the other side closes.
CLOSE: Step = ("close",)
#: The same by TLS, with close_notify before it.
GOODBYE: Step = ("goodbye",)
#: Read the request's body before what follows.
READ_BODY: Step = ("body",)
#: Wait for the next request on the same connection, whose path chooses the next script.
NEXT: Step = ("next",)
#: Send back whatever comes until the end.
ECHO: Step = ("echo",)


@dataclass
class Received:
    """A request head as it came, and the body that was read so far."""

    head: bytes
    body: bytes = b""
    #: Bytes of a flood that the socket has taken.
    sent: int = 0

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:]
        return [(n.lower(), v.strip()) for n, _, v in (line.partition(b":") for line in lines) if n]

    def get(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.fields if key == name), None)


@dataclass
class ScriptedUpstream:
    """Serves scripts by path until the end of the `with` block."""

    scripts: Mapping[str, Sequence[Step]] | Callable[[str], Sequence[Step]]
    family: int = socket.AF_INET
    path: str | None = None
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> ScriptedUpstream:
        self._stop = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX if self.path else self.family)
        if self.path is not None:
            self._listener.bind(self.path)
        else:
            self._listener.bind(("::1" if self.family == socket.AF_INET6 else "127.0.0.1", 0))
            self.port = self._listener.getsockname()[1]
        self._listener.listen(256)
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(10)

    @property
    def address(self) -> Any:
        return self.path or (self._listener.getsockname()[0], self.port)

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, plain: socket.socket) -> None:
        sock = plain
        try:
            if self.tls is not None:
                sock = self.tls.wrap_socket(plain, server_side=True)
                self._sockets.append(sock)
            self._run(sock)
        except OSError:
            pass
        finally:
            sock.close()

    def _run(self, sock: socket.socket) -> None:
        buffer = b""
        more = True
        while more:
            while b"\r\n\r\n" not in buffer:
                data = sock.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            request = Received(head)
            self.requests.append(request)
            find = self.scripts if callable(self.scripts) else self.scripts.__getitem__
            more = False
            for step in find(request.path.lstrip("/")):
                buffer, again = self._step(sock, step, request, buffer)
                more = more or again

    def _step(self, sock: socket.socket, step: Step, request: Received, buffer: bytes) -> tuple[bytes, bool]:
        match step:
            case ("send", data):
                sock.sendall(data)
            case ("flood", data, n_bytes):
                block = data * max(1, 65536 // len(data))
                for _ in range(max(1, n_bytes // len(block))):
                    sock.sendall(block)
                    request.sent += len(block)
            case ("pause", seconds):
                self._stop.wait(seconds)
            case ("reset",):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            case ("close",):
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
            case ("goodbye",):
                assert isinstance(sock, ssl.SSLSocket)
                sock.unwrap().close()
            case ("body",):
                return _body(sock, request, buffer), False
            case ("next",):
                return buffer, True
            case ("echo",):
                sock.sendall(buffer)
                while data := sock.recv(65536):
                    sock.sendall(data)
        return buffer, False


def _body(sock: socket.socket, request: Received, buffer: bytes) -> bytes:
    """Read the body as Content-Length or chunked says; keep it with its framing."""
    length = request.get(b"content-length")
    while True:
        if length is not None and len(buffer) >= int(length):
            request.body, buffer = buffer[: int(length)], buffer[int(length) :]
            return buffer
        if length is None:
            end = re.search(rb"(?:^|\r\n)0\r\n(?:[^\r\n]+\r\n)*\r\n", buffer)
            if request.get(b"transfer-encoding") is None:
                return buffer
            if end is not None:
                request.body, buffer = buffer[: end.end()], buffer[end.end() :]
                return buffer
        data = sock.recv(65536)
        if not data:
            return buffer
        buffer += data
