"""A transfer continues after a short pause when its path becomes narrower, and no datagram exceeds the limit.

Only the native engine sends more than 1200 bytes; the last test checks that of the portable one.
"""

from __future__ import annotations

import pytest

from tests.support.engine_driver import StockClient, World, pattern, require_engine
from velocity_edge.quic.limits import Limits


@pytest.fixture(autouse=True)
def _native() -> None:
    require_engine("native")


class Narrow:
    """A client behind a path that carries `most` bytes of UDP payload towards it."""

    def __init__(self, client: StockClient) -> None:
        self.most = 65_535
        self.lost = 0
        self._receive = client.receive
        client.receive = self.receive  # type: ignore[method-assign]

    def receive(self, datagram: bytes, now_s: float) -> None:
        if len(datagram) > self.most:
            self.lost += 1
        else:
            self._receive(datagram, now_s)


def sizes(w: World) -> set[int]:
    return {min(train.segment_size, len(train.data)) for train in w.sent}


@pytest.mark.parametrize("most", [1300, 1443])
def test_transfer_completes_when_the_path_becomes_narrower(most: int) -> None:
    w = World("native")
    client = w.ready(max_data=1 << 24, max_stream_data=1 << 24)
    path = Narrow(client)
    response = client.get("/file/4000000")
    assert w.run(lambda: len(response.body) > 1_000_000, seconds=20)
    assert max(sizes(w)) > most
    path.most, w.sent = most, []
    began_ns = w.now_ns
    assert w.run(lambda: response.over, seconds=20)
    assert bytes(response.body) == pattern(4_000_000)
    assert path.lost > 0
    assert (w.now_ns - began_ns) / 1e9 < 5
    assert w.counters()["path_mtu_lowered"] == 1
    w.close()


def test_narrow_path_is_noticed_while_small_packets_arrive() -> None:
    w = World("native")
    client = w.ready(max_data=1 << 24, max_stream_data=1 << 24)
    path = Narrow(client)
    response = client.get("/file/4000000")
    assert w.run(lambda: len(response.body) > 1_000_000, seconds=20)
    path.most = 1300
    for _ in range(300):
        client.get("/bytes/10")
        w.run(lambda: response.over, seconds=0.03)
    assert w.run(lambda: response.over, seconds=20)
    assert w.counters()["path_mtu_lowered"] == 1
    w.close()


@pytest.mark.parametrize("seed", range(12))
def test_random_loss_does_not_lower_the_path_mtu(seed: int) -> None:
    w = World("native", loss=0.05, reorder=0.1, delay_ms=40, seed=seed)
    client = w.ready(max_data=1 << 24, max_stream_data=1 << 24)
    for length in (300_000, 10, 50_000, 3000):
        response = client.fetch(f"/bytes/{length}", seconds=200)
        assert bytes(response.body) == pattern(length)
        w.run(seconds=2)
    assert w.counters()["path_mtu_lowered"] == 0
    w.close()


def test_path_mtu_is_probed_again_after_migration() -> None:
    w = World("native")
    client = w.ready(max_data=1 << 24, max_stream_data=1 << 24)
    path = Narrow(client)
    response = client.get("/file/4000000")
    w.run(lambda: len(response.body) > 1_000_000)
    path.most = 1300
    w.run(lambda: len(response.body) > 2_000_000)
    path.most, w.sent = 65_535, []
    w.move(client.address, (b"\xcb\x00\x71\x05", 7777))
    w.run(lambda: response.over)
    assert max(sizes(w)) > 1400
    w.close()


@pytest.mark.parametrize("most", [1200, 1280, 1400, 1452])
def test_no_datagram_is_larger_than_the_limit(most: int) -> None:
    w = World("native", limits=Limits(max_datagram_bytes=most))
    client = w.ready(max_data=1 << 24, max_stream_data=1 << 24)
    assert len(client.fetch("/file/2000000").body) == 2_000_000
    assert max(sizes(w)) <= most
    w.close()


@pytest.mark.parametrize("most", [0, 1199, 1453, 1 << 30])
def test_a_limit_out_of_range_becomes_the_nearest_valid_one(most: int) -> None:
    w = World("native", limits=Limits(max_datagram_bytes=most))
    assert w.ready(max_data=1 << 24, max_stream_data=1 << 24).fetch("/file/500000").status == 200
    assert 1200 <= max(sizes(w)) <= 1452
    w.close()


def test_portable_engine_sends_at_most_1200_bytes() -> None:
    w = World("portable")
    assert w.ready(max_data=1 << 24, max_stream_data=1 << 24).fetch("/file/500000").status == 200
    assert max(sizes(w)) <= 1200
    w.close()
