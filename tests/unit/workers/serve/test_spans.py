"""Invariant: spans are valid OTLP; a collector that is slow or away costs spans, which are counted, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from velocity_edge.http.requests import RequestReceived
from workers.measures import Measures
from workers.serve.access_lines import UpstreamTimes
from workers.serve.otlp import client_span, export, server_span
from workers.serve.spans import MAX_BATCH, MAX_QUEUED, PAUSE_S, SpanExporter
from workers.serve.trace_context import Trace

TRACE = Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331", True, "aaaaaaaaaaaaaaaa")
EVENT = RequestReceived(1, 0, b"GET", b"https", b"a.example", b'/x"\xff?q=1', (), True)


def server(status: int = 200) -> bytes:
    return server_span(
        TRACE, EVENT, site="a", status=status, body_bytes=5, started_s=1_700_000_000.25, ended_s=1_700_000_000.5
    )


def parsed(body: bytes) -> Any:
    """Return the request as a collector's protobuf library reads it; ids are hexadecimal in OTLP, not base64."""
    document = json_format.json.loads(body)
    for resource in document["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for key in ("traceId", "spanId", "parentSpanId"):
                    if key in span:
                        span[key] = json_format.base64.b64encode(bytes.fromhex(span[key])).decode()
    return json_format.ParseDict(document, ExportTraceServiceRequest())


def test_spans_are_read_by_the_protobuf_library() -> None:
    times = UpstreamTimes("10.0.0.3:80", 0, 0.001, 0.0, 0.1, 2)
    request = parsed(export([server(503), client_span(TRACE, b"GET", times, 1_700_000_000.5)], "0.1", "7-ab"))
    [resource] = request.resource_spans
    assert {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"] == "velocity-edge"
    first, second = resource.scope_spans[0].spans
    assert first.trace_id.hex() == second.trace_id.hex() == TRACE.trace_id
    assert (first.span_id.hex(), first.parent_span_id.hex()) == (TRACE.span_id, TRACE.parent_id)
    assert (second.span_id.hex(), second.parent_span_id.hex()) == (TRACE.child_id, TRACE.span_id)
    assert (first.kind, second.kind) == (2, 3)
    assert abs(first.end_time_unix_nano - first.start_time_unix_nano - 250_000_000) < 1000
    assert (first.status.code, second.status.code) == (2, 2)
    attributes = {a.key: a.value for a in first.attributes}
    assert attributes["http.response.status_code"].int_value == 503
    assert attributes["url.path"].string_value == '/x"\ufffd'
    assert attributes["url.query"].string_value == "q=1"
    assert not parsed(export([server()], "0.1", "x")).resource_spans[0].scope_spans[0].spans[0].status.code


class Collector:
    """Takes what is exported; fails or waits when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.sizes: list[int] = []
        self.status: int | Exception = 200
        self.gate = asyncio.Event()
        self.gate.set()
        self.tasks: list[asyncio.Task[None]] = []
        self.measures = Measures()
        self.exporter = SpanExporter(self.measures, self._start, lambda: self.now_s, "test")
        self.exporter.send = self._send

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))

    async def _send(self, body: bytes) -> int:
        await self.gate.wait()
        self.sizes.append(body.count(b'"traceId"'))
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

    def add(self, number: int) -> None:
        span = server()
        for _ in range(number):
            self.exporter.add(span)

    async def settle(self) -> None:
        await asyncio.gather(*self.tasks)

    @property
    def counts(self) -> dict[str, float]:
        return {
            result: self.measures.counter("velocity_trace_spans_total", (result,)).value
            for result in ("exported", "dropped", "failed")
        }


async def test_spans_go_out_in_batches() -> None:
    collector = Collector()
    collector.add(MAX_BATCH + 3)
    collector.exporter.flush()
    await collector.settle()
    assert collector.sizes == [MAX_BATCH, 3]
    assert collector.counts == {"exported": MAX_BATCH + 3, "dropped": 0, "failed": 0}
    collector.exporter.flush()
    assert len(collector.tasks) == 1  # nothing to do


async def test_a_slow_collector_costs_spans_above_the_bound() -> None:
    collector = Collector()
    collector.gate.clear()
    collector.add(MAX_BATCH)
    await asyncio.sleep(0)
    collector.add(MAX_QUEUED + 100)
    collector.exporter.flush()
    assert len(collector.tasks) == 1  # one export at a time
    collector.gate.set()
    await collector.settle()
    assert collector.counts == {"exported": MAX_QUEUED + MAX_BATCH, "dropped": 100, "failed": 0}


async def test_after_a_failure_there_is_a_pause() -> None:
    collector = Collector()
    for status in (503, OSError("refused")):
        collector.status = status
        collector.add(2)
        collector.exporter.flush()
        await collector.settle()
        collector.now_s += PAUSE_S / 2
        collector.add(1)
        collector.exporter.flush()
        await collector.settle()
        collector.now_s += PAUSE_S / 2
    collector.status = 200
    collector.exporter.flush()
    await collector.settle()
    assert collector.sizes == [2, 3, 1]
    assert collector.counts == {"exported": 1, "dropped": 0, "failed": 5}


async def test_without_a_collector_nothing_is_sent() -> None:
    collector = Collector()
    collector.exporter.send = None
    collector.add(1)
    collector.exporter.flush()
    assert collector.tasks == []
