"""A minimal HTTP/3 server on unmodified aioquic.

It is a peer in the benchmarks, and the control in the tests: third-party clients get other results from it, so they
show the difference. It answers GET from a directory that it reads into memory at start; sessions resume from memory.

    python bench/peers/aioquic_server.py --host 127.0.0.1 --port 4433 --certificate c.pem --key k.pem --root DIR
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent
from aioquic.tls import SessionTicket


class Server(QuicConnectionProtocol):  # type: ignore[misc]
    files: dict[bytes, bytes]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http: H3Connection | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._answer(http_event)

    def _answer(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived) or self._http is None:
            return
        fields = dict(event.headers)
        body = self.files.get(fields[b":path"])
        head = [(b":status", b"404" if body is None else b"200"), (b"server", b"aioquic")]
        head.append((b"content-length", str(len(body or b"")).encode()))
        self._http.send_headers(event.stream_id, head, end_stream=not body)
        if body:
            self._http.send_data(event.stream_id, body, end_stream=True)
        self.transmit()


def _read_all(root: Path) -> dict[bytes, bytes]:
    return {f"/{path.relative_to(root)}".encode(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port-file", type=Path, help="where to write the port that --port 0 found")
    options = parser.parse_args()
    Server.files = _read_all(options.root)
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(options.certificate, options.key)
    tickets: dict[bytes, SessionTicket] = {}
    server = await serve(
        options.host,
        options.port,
        configuration=configuration,
        create_protocol=Server,
        session_ticket_fetcher=lambda ticket: tickets.pop(ticket, None),
        session_ticket_handler=lambda ticket: tickets.__setitem__(ticket.ticket, ticket),
    )
    if options.port_file:
        _publish(options.port_file, server._transport.get_extra_info("sockname")[1])
    await asyncio.Event().wait()


def _publish(path: Path, port: int) -> None:
    path.with_suffix(".new").write_text(str(port))
    path.with_suffix(".new").replace(path)  # a reader sees the complete file or none


if __name__ == "__main__":
    asyncio.run(main())
