"""Invariant: every counter of a worker is on the page exactly once, under a name that Prometheus accepts."""

import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from velocity_edge.status import metric_names, metrics
from velocity_edge.status.families import FAMILIES
from velocity_edge.status.sums import Table
from velocity_edge.wire.counters import TOTALS, VERDICTS

STATUS: Any = {
    "api_version": 1,
    "state": "serving",
    "reason": "",
    "version": "0.1.0",
    "pid": 1,
    "node_id": 7,
    "started_at_s": 1.0,
    "runtime_dir": "/run/velocity",
    "dispatch": {"tier": "B", "mode": "socket-ebpf", "missing": "", "adopted": False, "interfaces": []},
    "listeners": ["0.0.0.0:443"],
    "groups": [],
    "metrics_listen": "",
    "certificates": [{"name": "a.pem", "not_after_s": 2.0}],
    "workers": [
        {
            "worker_id": 17,
            "core": 0,
            "state": "ready",
            "version": "0.1.0",
            "connections": 3,
            "half_open": 1,
            "loop_lag_ms": 0.5,
            "rss_bytes": 4096,
            "revision": 2,
        }
    ],
    "restarts": 1,
    "adoptions": 2,
    "disabled": True,
    "drain": {"phase": "live", "lost": 3},
    # Each counter has a distinct value, so that a wrong assignment is detected.
    "counters": {name: 1000 + n for n, name in enumerate(TOTALS)},
    "packets": {"worker": {name: 5000 + n for n, name in enumerate(VERDICTS)}},
    "keys": {
        "seal_with": 2,
        "ages_s": {"2": 10.0, "1": 90.0},
        "epochs": [
            {
                "epoch": 2,
                "age_s": 10.0,
                "state": "seals",
                "opens_until_s": None,
                "ids_live": True,
                "connections": 7,
            },
            {"epoch": 1, "age_s": 90.0, "state": "opens", "opens_until_s": 1e9, "ids_live": True, "connections": 3},
        ],
        "storage": "/var/lib/velocity/tickets.json",
        "anew_at_s": None,
        "anew_reason": "",
    },
    "last_reload": {"revision": 2, "ok": False, "reason": "no", "at_s": 1.0, "took_s": 0.25},
    "pressure": [{"rule": "retry", "text": "", "since_at_s": 1.0, "per_s": 1.5, "total": 3}],
    "degraded": ["something"],
}


MEASURED: Table = {
    "velocity_http_requests_total": {("GET", "200", "example.com", "h3"): [70001.0]},
    "velocity_handshakes_total": {("h3", "X25519MLKEM768", "mldsa65", "completed", "false"): [70002.0]},
    "velocity_upstream_healthy": {("10.0.0.3:80",): [2.0]},
    "velocity_http_request_duration_seconds": {('a"b\n',): [7.5, 1, 2, *[0] * 15, 4]},
}


def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = metrics.exposition(STATUS, ready=True, socket_drops={(0, 0): 4}, measured=MEASURED).decode()
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
    }


def test_every_counter_is_exported_once() -> None:
    values = list(samples().values())
    downgrades = STATUS["counters"]["handshakes_classical"]
    named_twice = {STATUS["counters"][f"verdict_{v}"] for _, v in metric_names.FROM_VERDICTS.values()}
    for name, value in STATUS["counters"].items():
        if name in VERDICTS:
            assert values.count(value) == (1 if value in named_twice else 0)
        elif value == downgrades:
            assert values.count(value) == 3  # by group, and as a downgrade under two names
        else:
            assert values.count(value) == 1, name
    for value in STATUS["packets"]["worker"].values():
        assert values.count(value) == 1


def test_metrics_of_the_guide_and_of_dashboards_have_their_values() -> None:
    found = samples()
    assert found["active_connections", ()] == 3
    assert found["downgrade_events_total", (("reason", "client_profile"),)]
    assert found["velocity_active_connections", (("core", "0"), ("state", "ready"), ("worker", "17"))] == 3
    assert found["velocity_adoptions_total", ()] == 2
    assert found["velocity_pressure", (("rule", "retry"),)] == 1
    assert found["velocity_pressure", (("rule", "half_open"),)] == 0
    assert found["velocity_drain_phase", (("phase", "live"),)] == 1
    assert found["velocity_config_reload_seconds", ()] == 0.25
    lost = found["velocity_requests_lost_total", (("cause", "drain"),)]
    assert lost == STATUS["counters"]["requests_lost_drain"]
    assert found["velocity_config_last_reload_success", ()] == 0
    assert found["velocity_udp_receive_drops_total", (("listener", "0.0.0.0:443"), ("slot", "0"))] == 4
    assert found["velocity_ticket_key_age_seconds", ()] == 10.0
    assert found["velocity_dispatch_packets_total", (("stage", "worker"), ("verdict", "delivered"))] == 5000


def test_series_of_workers_are_exported_with_their_labels() -> None:
    found = samples()
    assert (
        found[
            "velocity_http_requests_total",
            tuple(sorted({"method": "GET", "status": "200", "site": "example.com", "proto": "h3"}.items())),
        ]
        == 70001
    )
    assert found["velocity_upstream_healthy", (("upstream", "10.0.0.3:80"),)] == 2
    assert found["velocity_pq_validation_failures_total", ()] == 0
    by_result = {
        dict(labels)["result"]: value for (name, labels), value in found.items() if name == "velocity_handshakes_total"
    }
    counters = STATUS["counters"]
    assert by_result == {
        "completed": 70002,
        "failed": counters["handshakes_failed"],
        "timed_out": counters["handshakes_timed_out"],
    }


def test_buckets_of_histograms_are_cumulative() -> None:
    found = samples()
    name = "velocity_http_request_duration_seconds"
    buckets = {
        dict(labels)["le"]: value for (found_name, labels), value in found.items() if found_name == f"{name}_bucket"
    }
    assert len(buckets) == len(FAMILIES[name].buckets) + 1
    assert [buckets["0.0001"], buckets["0.00025"], buckets["30.0"], buckets["+Inf"]] == [1, 3, 3, 7]
    site = (("site", 'a"b\n'),)
    assert found[f"{name}_count", site] == 7
    assert found[f"{name}_sum", site] == 7.5


def test_every_family_is_on_the_page_before_it_has_a_series() -> None:
    page = metrics.exposition(STATUS, ready=True, socket_drops={}).decode()
    for name in FAMILIES:
        assert f"# TYPE {name} " in page


def test_every_reason_of_a_downgrade_is_exported() -> None:
    found = {dict(labels).get("reason") for name, labels in samples() if name == "velocity_downgrade_events_total"}
    assert found == {
        "client_profile",
        "client_profile_unsupported",
        "no_hybrid_cert",
        "policy_disabled",
        "maintenance_window",
    }


def test_names_and_labels_are_valid() -> None:
    for name, labels in samples():
        assert re.fullmatch(r"(velocity_)?[a-z][a-z0-9_]*", name)
        assert all(re.fullmatch(r"[a-z_]+", label) for label, _ in labels)
