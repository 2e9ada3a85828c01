"""`server.telemetry`, also accepted as `telemetry`: metrics, logs and the access log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer

from velocity_edge.config.middlewares.identity import names_of
from velocity_edge.config.section import Need, Problem, Section
from velocity_edge.config.values import Address, Duration


class AccessLog(Section):
    """A line per request on standard output. `access_log: json` is short for `access_log: {format: json}`."""

    format: Literal["off", "json", "clf", "extended"] = "off"
    """`json`: an object. `clf`: the combined log format of Apache and nginx. `extended`: that, and after it `id=`,
    `site=`, `proto=`, `rt=` (seconds) and, of proxied requests, `upstream=`, `us=` (status), `uct=`, `uht=`, `urt=`
    (seconds to the connection, the head and the end) and `tries=`."""
    sample: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Share of the requests that are logged. Those with a status of 500 or more always are."""
    redact: bool = False
    """Log a keyed hash in place of client addresses. It is the same for a client until the epoch keys rotate."""

    @model_serializer(mode="wrap")
    def _short(self, write: SerializerFunctionWrapHandler) -> Any:
        """Write the word where it says everything: workers of earlier versions know only that."""
        document = write(self)
        return self.format if self == AccessLog(format=self.format) else document


def _section_of(value: Any) -> Any:
    return {"format": value} if isinstance(value, str) else value


class Otlp(Section):
    """Traces to an OpenTelemetry collector. `otlp: URL` is short for `otlp: {endpoint: URL}`."""

    endpoint: str
    """`http://` or `https://`, host and port; without a path, `/v1/traces`. OTLP by HTTP with JSON."""
    sample: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """Share of the traces that are exported, decided by the trace id: alike on all nodes with the same share."""
    trust_clients: bool = False
    """Let the `sampled` flag of a client's `traceparent` decide instead."""
    timeout_s: Duration = Field(default=5.0, alias="timeout")
    """For one export. Meanwhile up to 2048 spans wait; further ones are dropped and counted."""

    @property
    def url(self) -> str:
        """The address of the export."""
        return self.endpoint.rstrip("/") + ("" if urlsplit(self.endpoint).path.strip("/") else "/v1/traces")

    def problems(self) -> Iterator[Problem]:
        """Yield an endpoint that is no URL of HTTP."""
        try:
            parts = urlsplit(self.endpoint)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or parts.username is not None or parts.query or parts.fragment:
            yield ("endpoint",), f"cannot export to {self.endpoint!r}: expected such as http://127.0.0.1:4318"

    def needs(self) -> Iterator[Need]:
        """Yield what resolving the name needs."""
        yield from names_of("endpoint", self.endpoint)


def _otlp_section_of(value: Any) -> Any:
    return {"endpoint": value} if isinstance(value, str) else value


class Telemetry(Section):
    """Metrics and logs of the node."""

    metrics_listen: Address | None = None
    """Address for Prometheus, /livez, /readyz and the status page, such as 127.0.0.1:9300. Unset: off."""
    structured_logs: bool = False
    """Log one JSON object per line instead of text."""
    access_log: Annotated[AccessLog, BeforeValidator(_section_of)] = AccessLog()
    trust_request_id: bool = False
    """Use the `x-request-id` of clients (1 to 128 letters, digits and `-_.:/+=`) in place of a new one."""
    otlp: Annotated[Otlp | None, BeforeValidator(_otlp_section_of)] = None
