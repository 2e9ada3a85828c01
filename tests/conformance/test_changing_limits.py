"""Limits change while connections are open: announced values stay, bounds of the worker apply at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.engine_driver import NODE_ID, World
from tests.support.packets import short
from velocity_edge.quic.datagrams import EngineSettings
from velocity_edge.quic.limits import Limits

Make = Callable[..., World]


def use(w: World, congestion_control: str = "cubic", **changes: object) -> None:
    """Apply other limits, as a worker does with another revision."""
    limits = replace(w.limits, **changes)  # type: ignore[arg-type]
    w.engine.use_settings(EngineSettings(w.worker_id, NODE_ID, limits, congestion_control))
    w.hooks.admission.limits = limits
    w.app.send_high_bytes = limits.send_high_bytes


def test_new_transport_parameters_are_for_new_connections_only(world: Make) -> None:
    w = world(limits=Limits(max_streams_bidi=5))
    old = w.ready()
    use(w, max_streams_bidi=2, stream_window_bytes=65_536, connection_window_bytes=131_072, idle_timeout_s=7.0)
    new = w.ready()
    assert (old.quic._remote_max_streams_bidi, new.quic._remote_max_streams_bidi) == (5, 2)
    assert (old.quic._remote_max_data, new.quic._remote_max_data) == (1024 * 1024, 131_072)
    assert (old.quic._remote_max_idle_timeout, new.quic._remote_max_idle_timeout) == (30.0, 7.0)
    body = bytes(300_000)
    assert old.fetch("/count", method="POST", body=body).body == b"300000"
    assert new.fetch("/count", method="POST", body=body).body == b"300000"
    hanging = [old.get("/hang") for _ in range(5)]
    w.run(lambda: len(w.app.requests) == 7, seconds=5)
    assert len(w.app.requests) == 7, "five at one time were promised"
    assert not any(response.over for response in hanging)


def test_an_idle_connection_keeps_its_announced_timeout(world: Make) -> None:
    w = world()
    client = w.ready()
    use(w, idle_timeout_s=2.0)
    w.run(seconds=20)
    assert client.fetch("/bytes/10").status == 200
    assert not w.app.closed


def test_a_header_section_may_be_as_large_as_announced(world: Make) -> None:
    w = world()
    old = w.ready()
    use(w, max_field_section_bytes=1024)
    new = w.ready()
    large = [(b"x-large", b"x" * 4000)]
    assert old.fetch("/bytes/10", headers=large).status == 200
    assert new.fetch("/bytes/10", headers=large).status != 200
    use(w, max_field_section_bytes=16_384)
    assert w.ready().fetch("/bytes/10", headers=large).status == 200


@pytest.mark.parametrize("bound", ["max_connections", "max_half_open"])
def test_worker_bounds_apply_at_once_and_close_no_connection(world: Make, bound: str) -> None:
    w = world()
    clients = [w.ready() for _ in range(3)]
    use(w, **{bound: 3 if bound == "max_connections" else 0})
    late = w.connect()
    w.run(lambda: late.ready or late.terminated is not None, seconds=3)
    assert not late.ready
    assert all(client.fetch("/bytes/10").status == 200 for client in clients)
    use(w)
    assert w.ready().fetch("/bytes/10").status == 200


def test_a_new_rate_of_resets_applies_at_once(world: Make) -> None:
    w = world(limits=Limits(max_resets_per_s=0))

    def resets() -> int:
        for _ in range(10):
            # A valid id whose connection ended.
            w.inject(w.address(), short(w.codec.issue(NODE_ID, w.worker_id)))
        return w.counters()["verdict_reset"]

    assert resets() == 0
    w.now_ns += 2_000_000_000
    use(w, max_resets_per_s=4)
    assert resets() == 4
    w.now_ns += 2_000_000_000
    use(w, max_resets_per_s=0)
    assert resets() == 4


def test_a_waiting_answer_completes_after_the_bounds_change(world: Make) -> None:
    w = world()
    client = w.ready()
    response = client.get("/stream/2000000")
    w.run(lambda: len(response.body) > 100_000, seconds=10)
    assert not response.done
    for high in (16_384, 512 * 1024):
        use(w, send_high_bytes=high, send_low_bytes=high // 4, max_unacked_bytes=2 * high)
        w.run(seconds=0.05)
    w.run(lambda: response.over, seconds=30)
    assert len(response.body) == 2_000_000


def test_new_congestion_control_is_for_new_connections_only(world: Make) -> None:
    w = world()
    old = w.ready()
    use(w, congestion_control="reno")
    new = w.ready()
    assert [client.fetch("/bytes/300000").status for client in (old, new)] == [200, 200]


def test_invalid_settings_change_nothing(world: Make) -> None:
    w = world()
    with pytest.raises((KeyError, ValueError), match="hope"):
        use(w, congestion_control="hope", max_streams_bidi=1)
    assert w.ready().quic._remote_max_streams_bidi == 100
