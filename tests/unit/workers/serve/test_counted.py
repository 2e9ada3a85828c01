"""Invariant: each answered request and each handshake is counted once, under labels that no client chooses."""

import pytest

from velocity_edge.http.requests import HandshakeCompleted
from velocity_edge.status.families import FAMILIES
from velocity_edge.tls import kex
from workers.measures import Measures
from workers.serve.counted import HandshakeSeries, RequestSeries

REQUESTS = "velocity_http_requests_total"
BYTES = "velocity_http_response_bytes_total"
DURATIONS = "velocity_http_request_duration_seconds"


def test_requests_are_counted_by_method_status_site_and_protocol() -> None:
    measures = Measures()
    series = RequestSeries(measures, "h2")
    series.count("example.com", b"GET", 200, 100, 0.003)
    series.count("example.com", b"GET", 200, 20, 0.004)
    series.count("", b"POST", 421, 5, 0.001)
    found = {name: dict(changed) for name, changed in measures.changes().items()}
    ours = ("GET", "200", "example.com", "h2")
    assert found[REQUESTS] == {ours: [2], ("POST", "421", "none", "h2"): [1]}
    assert found[BYTES] == {ours: [120], ("POST", "421", "none", "h2"): [5]}
    assert found[DURATIONS]["example.com",][0] == pytest.approx(0.007)
    assert sum(found[DURATIONS]["example.com",][1:]) == 2


def test_methods_of_clients_make_no_series() -> None:
    measures = Measures()
    series = RequestSeries(measures)
    for n in range(1000):
        series.count("a", b"M%d" % n, 405, 0, 0.0)
    assert dict(measures.changes()[REQUESTS]) == {("other", "405", "a", "h3"): [1000]}
    assert not series._answers


def handshake(group: int, *, resumed: bool = False) -> HandshakeCompleted:
    return HandshakeCompleted(
        1, (b"\x7f\0\0\1", 1), "h3", group, 0x1301, 0 if resumed else 0x0403, "a", resumed, False, 2_000_000
    )


def test_handshakes_have_group_signature_and_profile() -> None:
    measures = Measures()
    series = HandshakeSeries(measures)
    series.profile_of = {kex.X25519_MLKEM768: "balanced", kex.X25519: "classical"}.__getitem__
    series.completed(handshake(kex.X25519_MLKEM768))
    series.completed(handshake(kex.X25519, resumed=True))
    found = {name: dict(changed) for name, changed in measures.changes().items()}
    assert found["velocity_handshakes_total"] == {
        ("h3", "X25519MLKEM768", "ecdsa_secp256r1_sha256", "completed", "false"): [1],
        ("h3", "x25519", "", "completed", "true"): [1],
    }
    durations = found["velocity_handshake_duration_seconds"]
    assert set(durations) == {("balanced", "X25519MLKEM768"), ("classical", "x25519")}
    bucket = FAMILIES["velocity_handshake_duration_seconds"].buckets.index(0.0025)
    assert durations["classical", "x25519"][1 + bucket] == 1


def test_only_invalid_post_quantum_shares_are_validation_failures() -> None:
    measures = Measures()
    series = HandshakeSeries(measures)
    series.key_exchange(kex.GROUPS[kex.X25519], 0.1, False)
    series.key_exchange(kex.GROUPS[kex.X25519_MLKEM768], 0.1, False)
    series.key_exchange(kex.GROUPS[kex.X25519_MLKEM768], 0.0001, True)
    found = {name: dict(changed) for name, changed in measures.changes().items()}
    assert found["velocity_pq_validation_failures_total"] == {(): [1]}
    assert list(found["velocity_kem_operation_duration_seconds"]) == [("encapsulate", "X25519MLKEM768")]
