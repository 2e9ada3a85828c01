"""A gRPC server without generated code: messages are bytes, the method is the path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

SERVICE = "/test.Test/"


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Unary, Fail, Download, Upload, Chat and Hang."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.metadata: dict[str, str] = {}

    def service(self, details: Any) -> Any:
        self.metadata = dict(details.invocation_metadata)
        handlers = {
            "Unary": grpc.unary_unary_rpc_method_handler(self._unary),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Download": grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request] * 20)),
            "Upload": grpc.stream_unary_rpc_method_handler(lambda requests, context: b"-".join(requests)),
            "Chat": grpc.stream_stream_rpc_method_handler(lambda requests, context: (one.upper() for one in requests)),
            "Hang": grpc.unary_stream_rpc_method_handler(self._hang),
        }
        return handlers.get(details.method.removeprefix(SERVICE))

    def _unary(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-sum", str(len(request))),))
        return request[::-1]

    def _fail(self, request: bytes, context: Any) -> bytes:
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 100%")
        return b""

    def _hang(self, request: bytes, context: Any) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        yield b"first"
        self.cancelled.wait(8)


@contextmanager
def grpc_server(service: Service) -> Iterator[int]:
    """Serve by HTTP/2 without TLS; yield the port."""
    server = grpc.server(ThreadPoolExecutor(4), handlers=(service,), options=[("grpc.max_receive_message_length", -1)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait(5)
