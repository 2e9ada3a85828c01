"""Spans in the JSON form of OTLP (https://opentelemetry.io/docs/specs/otlp/, ProtoJSON with ids in hexadecimal).

A request is a span of kind SERVER; a proxied one has a child of kind CLIENT for its last attempt. Names of attributes
are those of OpenTelemetry's semantic conventions for HTTP. JSON needs no generated code and no dependency; every
collector takes it at the same address as protobuf. Data of clients is cut and decoded, never interpreted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from velocity_edge.http.requests import RequestReceived
from workers.serve.access_lines import UpstreamTimes
from workers.serve.trace_context import Trace

_SERVER: Final = 2
_CLIENT: Final = 3
_ERROR: Final = 2
#: Of one attribute that a client chose.
_MAX_TEXT: Final = 512


def server_span(
    trace: Trace,
    event: RequestReceived,
    *,
    site: str,
    status: int,
    body_bytes: int,
    started_s: float,
    ended_s: float,
    request_id: bytes = b"",
) -> bytes:
    """Return the span of a request as JSON. Times are wall time in seconds."""
    path, _, query = event.path.partition(b"?")
    attributes = {
        "http.request.method": _text(event.method),
        "url.scheme": _text(event.scheme),
        "url.path": _text(path),
        "server.address": _text(event.authority),
        "http.route": site,
        "http.response.status_code": status,
        "http.response.body.size": body_bytes,
        "network.protocol.name": "http",
        "network.protocol.version": "3",
        "http.request.header.x-request-id": _text(request_id),
    }
    if query:
        attributes["url.query"] = _text(query)
    if status >= 500:
        attributes["error.type"] = str(status)
    name = _text(event.method)
    return _span(trace.trace_id, trace.span_id, trace.parent_id, name, _SERVER, started_s, ended_s, attributes, status)


def client_span(trace: Trace, method: bytes, upstream: UpstreamTimes, ended_s: float) -> bytes:
    """Return the span of the last attempt of a proxied request."""
    attributes = {
        "http.request.method": _text(method),
        "server.address": upstream.address,
        "http.response.status_code": upstream.status,
        "http.request.resend_count": upstream.attempts - 1,
        "velocity.connect_s": upstream.connect_s,
        "velocity.head_s": upstream.head_s,
    }
    if not upstream.status or upstream.status >= 500:
        attributes["error.type"] = str(upstream.status or "no response")
    began_s = ended_s - upstream.total_s
    status = upstream.status or 502
    return _span(
        trace.trace_id, trace.child_id, trace.span_id, _text(method), _CLIENT, began_s, ended_s, attributes, status
    )


def export(spans: Iterable[bytes], version: str, instance: str) -> bytes:
    """Return the body of an export request. *instance*: what tells this process from others."""
    resource = {"service.name": "velocity-edge", "service.version": version, "service.instance.id": instance}
    head = orjson.dumps({"attributes": _attributes(resource)})
    scope = orjson.dumps({"name": "velocity_edge", "version": version})
    body = b",".join(spans)
    return b'{"resourceSpans":[{"resource":%b,"scopeSpans":[{"scope":%b,"spans":[%b]}]}]}' % (head, scope, body)


def _span(
    trace_id: str,
    span_id: str,
    parent_id: str,
    name: str,
    kind: int,
    began_s: float,
    ended_s: float,
    attributes: dict[str, Any],
    status: int,
) -> bytes:
    span: dict[str, Any] = {
        "traceId": trace_id,
        "spanId": span_id,
        "name": name,
        "kind": kind,
        # 64-bit integers are strings in ProtoJSON.
        "startTimeUnixNano": str(int(began_s * 1e9)),
        "endTimeUnixNano": str(int(max(began_s, ended_s) * 1e9)),
        "attributes": _attributes(attributes),
        "status": {"code": _ERROR} if status >= 500 else {},
    }
    if parent_id:
        span["parentSpanId"] = parent_id
    return orjson.dumps(span)


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def _text(value: bytes) -> str:
    return value[:_MAX_TEXT].decode("utf-8", "replace")
