"""Properties of the portable engine alone: its initial window, its ids, and the reason why it was chosen."""

from __future__ import annotations

import pytest

from tests.support import tls as tls_support
from tests.support.engine_driver import NODE_ID, World
from tests.support.our_client import OurClient
from velocity_edge.errors import Unavailable
from velocity_edge.quic import open_engine as opening
from velocity_edge.quic.datagrams import EngineSettings, Train
from velocity_edge.quic.limits import Limits
from velocity_edge.quic.open_engine import Engine, open_engine
from velocity_edge.quic.portable import PortableEngine


def test_a_flight_of_14_kb_needs_one_round_trip_with_a_validated_address() -> None:
    """The initial window is 32 packets; with ten the end of an ML-DSA-87 flight waits for the first ACKs."""
    w = World("portable", limits=Limits(retry_threshold=0), policy=tls_support.policy(tls_support.chain("mldsa87")))
    OurClient.connected(w)
    flight = sum(len(train.data) for train in w.sent[1:] if train.data[0] & 0x80)
    assert flight > 12_000
    assert w.app.handshakes[0].duration_ns < 3 * w.delay_ns
    w.close()


def test_retired_ids_are_forgotten_after_a_while() -> None:
    w = World("portable")
    client = w.ready()
    for _ in range(60):
        w.run(seconds=0.1)
        client.quic.change_connection_id()
        client.quic.send_ping(1)
    engine = w.engine
    assert isinstance(engine, PortableEngine)
    # The client's first id, four active ones, the last eight that were retired.
    assert len(engine._table.by_cid) <= 13
    w.close()


def test_it_is_an_engine() -> None:
    engine: Engine = PortableEngine(EngineSettings(7, NODE_ID, Limits()), None)  # type: ignore[arg-type]
    assert engine.name == "portable"


def test_auto_gives_the_reason_for_the_portable_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "native_missing", lambda: "libngtcp2 is not installed")
    engine, reason = open_engine("auto", EngineSettings(7, NODE_ID, Limits()), None)  # type: ignore[arg-type]
    assert engine.name == "portable"
    assert "libngtcp2 is not installed" in reason
    assert "no PMTUD" in reason


def test_an_unavailable_engine_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "native_missing", lambda: "libngtcp2 is not installed")
    settings = EngineSettings(7, NODE_ID, Limits())
    with pytest.raises(Unavailable, match=r"^cannot use the native engine: libngtcp2 is not installed"):
        open_engine("native", settings, None)  # type: ignore[arg-type]
    with pytest.raises(Unavailable, match=r"^cannot use BBR"):
        open_engine("portable", EngineSettings(7, NODE_ID, Limits(), "bbr"), None)  # type: ignore[arg-type]


def test_datagrams_before_the_keys_are_dropped() -> None:
    engine = PortableEngine(EngineSettings(7, NODE_ID, Limits()), None)  # type: ignore[arg-type]
    batch = engine.batch()
    batch.append(Train(b"\x43" + bytes(60), 61, (bytes(4), 1), (bytes(4), 2), 0))
    assert engine.receive(batch, 1) == []
    assert engine.counters()["verdict_dropped_not_accepting"] == 1
    assert engine.next_timer_ns() is None
