"""The metrics of a node in the Prometheus text format: a function of the status document.

Names have the prefix `velocity_`, base units and `_total` on counters; no label has a value that a peer chooses.
`active_connections` and `downgrade_events_total` also exist under the names of the deployment guide. Every counter of
workers (velocity_edge/wire/counters.py) appears exactly once (metric_names.py).

Counters are sums over the slabs of all slots, and series are sums over workers of now and before (sums.py), so they
continue when a worker is replaced and when a supervisor adopts the node; they restart with the node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from velocity_edge.status.document import NodeStatus
from velocity_edge.status.metric_names import (
    CLOSED,
    CUT_OFF,
    DOWNGRADES,
    FROM_VERDICTS,
    LABELLED,
    PLAIN,
    RENAMED,
)
from velocity_edge.status.pressure import RULES
from velocity_edge.status.series_metrics import series_metrics
from velocity_edge.status.sums import Table
from velocity_edge.wire.counters import CLOSES, LOSSES

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition(
    status: NodeStatus, *, ready: bool, socket_drops: Mapping[tuple[int, int], int], measured: Table | None = None
) -> bytes:
    """Return the page for Prometheus. *socket_drops*: (slot, listener index) -> datagrams.

    *measured*: the series of workers (sums.py).
    """
    registry = CollectorRegistry()
    registry.register(_Node(status, ready, socket_drops, measured or {}))
    return generate_latest(registry)


class _Node(Collector):
    def __init__(
        self, status: NodeStatus, ready: bool, socket_drops: Mapping[tuple[int, int], int], measured: Table
    ) -> None:
        self._status = status
        self._ready = ready
        self._socket_drops = socket_drops
        self._measured = measured

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield from self._node()
        yield from self._workers()
        yield from self._counters()
        yield from self._packets()
        yield from self._secrets()
        yield from series_metrics(self._measured, self._status["counters"])

    def _node(self) -> Iterator[Metric]:
        status = self._status
        dispatch = status["dispatch"]
        info = GaugeMetricFamily("velocity_build_info", "Always 1.", labels=["version", "tier"])
        info.add_metric([status["version"], dispatch["tier"]], 1)
        yield info
        versions = Counter(worker["version"] or "unknown" for worker in status["workers"])
        generations = GaugeMetricFamily("velocity_workers", "Workers by version of their program.", labels=["version"])
        for version, number in sorted(versions.items()):
            generations.add_metric([version], number)
        yield generations
        state = GaugeMetricFamily("velocity_node_state", "1 for the state that the node is in.", labels=["state"])
        state.add_metric([status["state"]], 1)
        yield state
        yield GaugeMetricFamily("velocity_ready", "1 if the node takes new clients.", value=int(self._ready))
        yield GaugeMetricFamily("velocity_start_time_seconds", "When the node started.", value=status["started_at_s"])
        yield GaugeMetricFamily(
            "velocity_degraded", "Number of entries in degraded of the status.", value=len(status["degraded"])
        )
        connections = sum(worker["connections"] for worker in status["workers"])
        yield GaugeMetricFamily("active_connections", "Connections (name of the deployment guide).", value=connections)
        in_force = {row["rule"] for row in status["pressure"]}
        pressure = GaugeMetricFamily(
            "velocity_pressure", "1 while the node defends itself by this rule.", labels=["rule"]
        )
        for rule in RULES:
            pressure.add_metric([rule.name], int(rule.name in in_force))
        yield pressure
        reload = status["last_reload"]
        ok = 1 if reload is None or reload["ok"] else 0
        yield GaugeMetricFamily("velocity_config_last_reload_success", "0 if the last reload was refused.", value=ok)
        if reload is not None:
            text = "Time until all workers used the last revision."
            yield GaugeMetricFamily("velocity_config_reload_seconds", text, value=reload["took_s"])
        yield from self._drain()
        # Until velocity/1 is served, a classical key exchange is the only downgrade.
        reasons = dict.fromkeys(DOWNGRADES, 0) | {"client_profile": status["counters"]["handshakes_classical"]}
        for name in ("velocity_downgrade_events", "downgrade_events"):
            yield _labelled(name, "Handshakes with a weaker result than the node prefers.", "reason", reasons)

    def _drain(self) -> Iterator[Metric]:
        status, drain = self._status, self._status["drain"]
        text = "Supervisors that adopted the workers of an earlier one."
        yield CounterMetricFamily("velocity_adoptions", text, value=status["adoptions"])
        yield GaugeMetricFamily(
            "velocity_disabled",
            "1 while the disable file exists: health checkers withdraw the routes.",
            value=int(status["disabled"]),
        )
        phase = GaugeMetricFamily(
            "velocity_drain_phase", "1 for the phase of the drain, or how the last one ended.", labels=["phase"]
        )
        if drain is not None:
            phase.add_metric([drain["phase"]], 1)
        yield phase
        if drain is not None:
            text = "Requests that the current or last drain cut off."
            yield GaugeMetricFamily("velocity_drain_lost_requests", text, value=drain["lost"])

    def _workers(self) -> Iterator[Metric]:
        labels = ["worker", "core"]
        families = {
            "up": GaugeMetricFamily("velocity_worker_up", "1 if the worker is ready.", labels=labels),
            "connections": GaugeMetricFamily(
                "velocity_active_connections",
                "Connections, including those of draining workers.",
                labels=[*labels, "state"],
            ),
            "half_open": GaugeMetricFamily("velocity_half_open_connections", "Handshakes in flight.", labels=labels),
            "lag": GaugeMetricFamily(
                "velocity_worker_loop_lag_seconds", "Delay of the event loop of the worker.", labels=labels
            ),
            "silent": GaugeMetricFamily(
                "velocity_worker_silent_seconds",
                "Time since its last heartbeat if that is late, else 0.",
                labels=labels,
            ),
            "rss": GaugeMetricFamily("velocity_worker_resident_bytes", "Resident memory.", labels=labels),
            "revision": GaugeMetricFamily(
                "velocity_worker_revision", "Revision of the configuration in use.", labels=labels
            ),
        }
        for worker in self._status["workers"]:
            values = [str(worker["worker_id"]), str(worker["core"])]
            families["up"].add_metric(values, int(worker["state"] == "ready"))
            families["connections"].add_metric([*values, worker["state"]], worker["connections"])
            families["half_open"].add_metric(values, worker["half_open"])
            families["lag"].add_metric(values, worker["loop_lag_ms"] / 1000)
            families["silent"].add_metric(values, worker.get("silent_s", 0.0))
            families["rss"].add_metric(values, worker["rss_bytes"])
            families["revision"].add_metric(values, worker["revision"])
        yield from families.values()
        yield CounterMetricFamily("velocity_worker_restarts", "Workers replaced.", value=self._status["restarts"])

    def _counters(self) -> Iterator[Metric]:
        counters = self._status["counters"]
        for name, (text, label, by_value) in LABELLED.items():
            yield _labelled(name, text, label, {value: counters[counter] for value, counter in by_value.items()})
        for name, (text, prefix) in CUT_OFF.items():
            by_cause = {c.removeprefix(prefix): counters[c] for c in LOSSES if c.startswith(prefix)}
            yield _labelled(name, text, "cause", by_cause)
        text = "Connections that the node closed with an error, by error name (RFC 9000, RFC 9114, RFC 9204)."
        by_code = {counter.removeprefix(CLOSED): counters[counter] for counter in CLOSES}
        yield _labelled("velocity_connection_errors", text, "code", by_code)
        for name, (text, counter) in RENAMED.items():
            yield CounterMetricFamily(name, text, value=counters[counter])
        for name, (text, verdict) in FROM_VERDICTS.items():
            yield CounterMetricFamily(name, text, value=counters[f"verdict_{verdict}"])
        for counter in PLAIN:
            yield CounterMetricFamily(
                f"velocity_{counter}", "See velocity_edge/wire/counters.py.", value=counters[counter]
            )

        running = counters.get("streams", 0)
        for name in ("velocity_http_requests_in_flight", "velocity_active_requests"):
            yield GaugeMetricFamily(name, "Requests that are not answered, or whose body is incomplete.", value=running)
        yield CounterMetricFamily("velocity_0rtt_replay_rejections", "0: this version refuses all early data.", value=0)

    def _packets(self) -> Iterator[Metric]:
        packets = CounterMetricFamily(
            "velocity_dispatch_packets", "Datagrams by verdict, counted once per stage.", labels=["stage", "verdict"]
        )
        for stage, verdicts in self._status["packets"].items():
            for verdict, count in verdicts.items():
                packets.add_metric([stage, verdict.removeprefix("verdict_")], count)
        yield packets
        drops = CounterMetricFamily(
            "velocity_udp_receive_drops",
            "Datagrams dropped because a socket buffer was full.",
            labels=["slot", "listener"],
        )
        for (slot, listener), count in self._socket_drops.items():
            drops.add_metric([str(slot), self._status["listeners"][listener]], count)
        yield drops

    def _secrets(self) -> Iterator[Metric]:
        keys = self._status["keys"]
        count = GaugeMetricFamily("velocity_ticket_keys", "Keys in the epoch table.", labels=["state"])
        count.add_metric(["sealing"], 1)
        count.add_metric(["opening"], sum(row["state"] in ("opens", "announced") for row in keys["epochs"]))
        yield count
        held = GaugeMetricFamily(
            "velocity_connections_by_key_epoch", "Connections that use connection IDs of an epoch.", labels=["epoch"]
        )
        for row in keys["epochs"]:
            if row["ids_live"]:
                held.add_metric([str(row["epoch"])], row["connections"])
        yield held
        anew_s = keys["anew_at_s"]
        yield GaugeMetricFamily(
            "velocity_ticket_keys_lost_timestamp_seconds",
            "When new keys replaced lost ones; 0: never.",
            value=anew_s or 0.0,
        )
        age_s = keys["ages_s"].get(str(keys["seal_with"]), 0.0)
        yield GaugeMetricFamily("velocity_ticket_key_age_seconds", "Age of the sealing key.", value=age_s)
        ends = GaugeMetricFamily(
            "velocity_cert_not_after_timestamp_seconds", "Expiry of a certificate.", labels=["name"]
        )
        for certificate in self._status["certificates"]:
            ends.add_metric([certificate["name"]], certificate["not_after_s"])
        yield ends


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family
