"""`server.telemetry`, also accepted as `telemetry`: metrics, logs and the access log. Short because each section
has its own file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from velocity_edge.config.section import Problem, Section
from velocity_edge.config.values import Address


class Telemetry(Section):
    """Metrics and logs of the node."""

    metrics_listen: Address | None = None
    """Address for Prometheus, /livez, /readyz and the status page, such as 127.0.0.1:9300. Unset: off."""
    structured_logs: bool = False
    """Log one JSON object per line instead of text."""
    access_log: Literal["off", "json", "clf"] = "off"
    """Log a line per request, as JSON or in the Common Log Format."""
    otlp: str | None = None
    """OpenTelemetry collector. (Not implemented yet.)"""

    def problems(self) -> Iterator[Problem]:
        """Yield what is not implemented."""
        if self.otlp is not None:
            yield ("otlp",), "cannot export to OpenTelemetry yet: use metrics_listen"
