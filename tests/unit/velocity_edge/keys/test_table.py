"""An epoch table is consistent or refused, and travels to workers without a change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.epoch_tables import table
from velocity_edge.keys.ring import cid_configs
from velocity_edge.keys.table import EpochTable, config_id, table_of
from velocity_edge.wire.cid_codec import CidCodec
from velocity_edge.wire.messages import decode_order, encode


def test_a_table_without_live_ids_decodes_the_sealing_epoch_and_its_neighbour() -> None:
    announced = table(7, 8, 9, seal=8)
    assert [config_id(e) for e in announced.cid_epochs] == [1, 2]
    switched = table(7, 8, 9, seal=9)
    assert [config_id(e) for e in switched.cid_epochs] == [2, 1]
    before, after = (CidCodec(cid_configs(t)) for t in (announced, switched))
    for issuer, reader in ((before, after), (after, before)):
        owner = reader.open(issuer.issue(77, 5))
        assert owner is not None
        assert (owner.node_id, owner.worker_id) == (77, 5)


def test_the_message_carries_the_table() -> None:
    order = decode_order(encode(table(3, 4, 5, seal=4).order()))
    assert table_of(order) == replace(table(3, 4, 5, seal=4), announced=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("numbers", "seal"), [((), 1), ((1, 1), 1), ((1, 2), 3), ((0,), 0), (tuple(range(1, 18)), 1)])
def test_an_inconsistent_table_is_refused(numbers: tuple[int, ...], seal: int) -> None:
    with pytest.raises(ValueError, match=r"expected|are not|not one of"):
        table(*numbers, seal=seal) if numbers else EpochTable((), seal)
