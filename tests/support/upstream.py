"""A real HTTP/1.1 server behind a proxy, with behaviours by path, which remembers every byte that it got.

    with Upstream() as upstream:
        upstream.url, upstream.requests, upstream.raw

`/bytes/N` answers with N bytes, `/slow` after `release` is set, `/sse` with an event at once and another one after
`release`, `/hints` sends a 103 first, `/close` closes without an answer, `/status/N` has that status. Any other path
answers with what it got, as JSON.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Upstream:
    """A server in a thread per connection."""

    def __init__(
        self,
        port: int = 0,
        name: str = "one",
        healthy: bool = True,
        path: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """*path*: of a unix socket, in place of a port of 127.0.0.1."""
        self.name = name
        self.healthy = healthy
        #: (method, target, fields in lower case, body)
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.raw = bytearray()
        self.connections = 0
        self.probes = 0
        self.release = threading.Event()
        #: A client went away while /slow or /sse waited.
        self.abandoned = threading.Event()
        self._path = path
        self._open: set[socket.socket] = set()
        upstream = self

        class Handler(_Handler):
            server_side = upstream

        if path:

            class Server(ThreadingHTTPServer):
                address_family = socket.AF_UNIX

                def server_bind(self) -> None:
                    self.socket.bind(path)
                    self.server_name, self.server_port = "localhost", 0

            self._server: ThreadingHTTPServer = Server((path, 0), Handler)
        else:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._tls = tls
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        if self._path:
            return f"unix:{self._path}"
        return f"https://localhost:{self.port}" if self._tls is not None else f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Refuse connections from now on, and reset the open ones."""
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        for each in tuple(self._open):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class _Recorded:
    """A file that copies what is read."""

    def __init__(self, file: Any, raw: bytearray) -> None:
        self._file = file
        self._raw = raw

    def readline(self, limit: int = -1) -> bytes:
        data: bytes = self._file.readline(limit)
        self._raw += data
        return data

    def read(self, n: int = -1) -> bytes:
        data: bytes = self._file.read(n)
        self._raw += data
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_side: Upstream

    def setup(self) -> None:
        super().setup()
        self.server_side.connections += 1
        self.server_side._open.add(self.connection)
        self.rfile = _Recorded(self.rfile, self.server_side.raw)  # type: ignore[assignment]

    def finish(self) -> None:
        self.server_side._open.discard(self.connection)
        try:
            super().finish()
        except OSError:
            pass

    def address_string(self) -> str:
        return "upstream"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def version_string(self) -> str:
        return "upstream"

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _answer(self, status: int, body: bytes, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        for name, value in (("x-upstream", self.server_side.name), *fields):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    def _wait(self) -> None:
        """Until `release`, or until the client is gone."""
        while not self.server_side.release.wait(0.02):
            try:
                if self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
                    raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                self.server_side.abandoned.set()
                raise

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health":
            self.server_side.probes += 1
            self._answer(200 if self.server_side.healthy else 503, b"fine\n")
            return
        if path == "/close":
            self._body()
            self.server_side.requests.append((self.command, self.path, dict(self.headers), b""))
            self.close_connection = True
            return
        body = self._body()
        fields = {name.lower(): value for name, value in self.headers.items()}
        self.server_side.requests.append((self.command, self.path, fields, body))
        if path.startswith("/bytes/"):
            self._answer(200, bytes(int(path.rpartition("/")[2])))
        elif path.startswith("/status/"):
            self._answer(int(path.rpartition("/")[2]), b"as asked\n")
        elif path == "/slow":
            try:
                self._wait()
            except ConnectionResetError:
                self.close_connection = True
                return
            self._answer(200, b"slow\n")
        elif path == "/hints":
            self.send_response_only(103)
            self.send_header("link", "</a.css>; rel=preload")
            self.end_headers()
            self._answer(200, b"hinted\n")
        elif path == "/sse":
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            self.close_connection = True
            try:
                self.wfile.write(b"data: first\n\n")
                self._wait()
                self.wfile.write(b"data: second\n\n")
            except OSError:
                self.server_side.abandoned.set()
        else:
            text = {"method": self.command, "target": self.path, "fields": fields, "body": len(body)}
            self._answer(200, json.dumps(text).encode(), ("content-type", "application/json"))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = _serve
