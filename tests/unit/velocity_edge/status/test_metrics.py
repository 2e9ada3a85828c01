"""Invariant: every counter of a worker is on the page exactly once, under a name that Prometheus accepts."""

import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from velocity_edge.status import metric_names, metrics
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


def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page = metrics.exposition(STATUS, ready=True, socket_drops={(0, 0): 4}).decode()
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


def test_names_and_labels_are_valid() -> None:
    for name, labels in samples():
        assert re.fullmatch(r"(velocity_)?[a-z][a-z0-9_]*", name)
        assert all(re.fullmatch(r"[a-z_]+", label) for label, _ in labels)
