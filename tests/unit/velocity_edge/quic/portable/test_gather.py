"""Datagrams that are gathered into trains stay the same, in the same order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.quic.portable.batch import gather

paths = st.sampled_from([("p1", "l", 0), ("p2", "l", 0)])


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=4).map(lambda b: b * 300), paths), max_size=150))
def test_trains_have_the_same_datagrams_in_the_same_order(datagrams: list[tuple[bytes, tuple[str, str, int]]]) -> None:
    seen: list[tuple[bytes, object]] = []
    for train in gather(datagrams):
        assert len(train.data) <= 65_000
        cuts = [train.data[i : i + train.segment_size] for i in range(0, len(train.data), train.segment_size)]
        assert len(cuts) <= 64
        seen += [(cut, (train.peer, train.local, train.listener)) for cut in cuts]
    assert seen == datagrams
