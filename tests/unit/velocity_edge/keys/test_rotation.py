"""A rotation never makes a worker seal with a key that another worker lacks; an epoch stays while anything needs it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.epoch_tables import DAY, root, table
from velocity_edge.keys import rotation
from velocity_edge.keys.ring import TICKET, KeyRing, cid_configs, reset_keys
from velocity_edge.keys.rotation import Step
from velocity_edge.keys.table import MAX_EPOCHS, EpochTable, config_id, first_table
from velocity_edge.wire.cid_codec import CidCodec
from velocity_edge.wire.messages import Epoch


def test_a_rotation_is_announced_then_switched() -> None:
    current = first_table(root(1), 0.0)
    assert rotation.next_step(current, 100.0, 200.0, []) is Step.NOTHING
    assert rotation.next_step(current, 200.0, 200.0, [{1}]) is Step.ANNOUNCE
    current = rotation.announce(current, root(2), 200.0, DAY)
    assert (current.epochs[0].epoch, current.seal_with) == (2, 1)
    assert rotation.next_step(current, 900.0, 200.0, [{1, 2}, {1}]) is Step.NOTHING
    assert rotation.next_step(current, 900.0, 200.0, [{1, 2}, {1, 2}]) is Step.SWITCH
    current = rotation.switch(current)
    assert current.seal_with == 2
    # The age of the new epoch counts from its creation.
    assert rotation.next_step(current, 399.0, 200.0, [{1, 2}]) is Step.NOTHING


def test_a_rotation_can_be_forced() -> None:
    assert rotation.next_step(table(1), 21_600.0, DAY, [], force=True) is Step.ANNOUNCE


def test_an_epoch_stays_until_what_it_sealed_has_expired() -> None:
    current = table(*range(1, 11))
    kept = rotation.expire(current, now_s=10 * 21_600.0, max_age_s=DAY)
    # 6 hours each: 5 stopped sealing 24 h ago (exactly), 4 before that.
    assert [e.epoch for e in kept.epochs] == [10, 9, 8, 7, 6, 5]
    assert [e.epoch for e in rotation.expire(current, 10 * 21_600.0, 0.0).epochs] == [10, 9, 8, 7]


def test_the_sealing_epoch_never_expires() -> None:
    current = table(*range(1, 11), seal=2)
    kept = rotation.expire(current, 10 * 21_600.0, 0.0)
    assert 2 in [e.epoch for e in kept.epochs]
    assert kept.seal_with == 2


def test_the_table_is_bounded_without_acknowledgements() -> None:
    current = first_table(root(1), 0.0)
    for number in range(2, 40):
        current = rotation.switch(rotation.announce(current, root(number), float(number), 1e9))
        current = rotation.retire(current, [number - 6])
    assert len(current.epochs) == MAX_EPOCHS


def test_imported_epochs_open_and_do_not_seal() -> None:
    mine = table(3, 5)
    merged = rotation.merge(mine, table(4, 5, 6).epochs)
    assert [e.epoch for e in merged.epochs] == [6, 5, 4, 3]
    # It opens what the other node sealed; none of the imported epochs seals or issues an ID.
    assert (merged.seal_with, merged.announced, merged.cid_live) == (5, 0, mine.cid_live)
    assert rotation.next_step(merged, 0.0, DAY, []) is Step.NOTHING
    assert KeyRing(merged, TICKET).open(KeyRing(table(4, 5, 6), TICKET).seal(b"x")) == b"x"
    assert rotation.next_number(merged) == 7


def test_epochs_with_one_number_and_different_roots_are_named() -> None:
    other = [Epoch(epoch=3, created_s=0.0, root=root(99)), *table(4, 5).epochs]
    assert rotation.collisions(table(3, 5), other) == (3,)


def test_connection_ids_of_every_epoch_decode_until_they_are_retired() -> None:
    current = first_table(root(1), 0.0)
    first = CidCodec(cid_configs(current)).issue(77, 5)
    for number in range(2, 8):
        current = rotation.switch(rotation.announce(current, root(number), number * DAY * 9, DAY))
        assert CidCodec(cid_configs(current)).open(first) is not None
        assert config_id(current.epochs[-1]) in reset_keys(current)
    assert current.cid_live == (7, 6, 5, 4, 3, 2, 1)
    # Epoch 8 needs the config id of epoch 1.
    assert rotation.blocking(current) == 1
    with pytest.raises(ValueError, match="have the same config id"):
        rotation.announce(current, root(8), 0.0, DAY)
    current = rotation.retire(current, [1, 7])
    assert current.cid_live == (7, 6, 5, 4, 3, 2), "the sealing epoch is never retired"
    assert rotation.blocking(current) is None
    assert rotation.announce(current, root(8), 0.0, DAY).cid_live == (8, 7, 6, 5, 4, 3, 2)


def test_crowding_names_the_blocking_epochs_one_rotation_early() -> None:
    current, crowding = first_table(root(1), 0.0), []
    for number in range(2, 8):
        current = rotation.switch(rotation.announce(current, root(number), number * DAY * 9, DAY))
        crowding.append(rotation.crowding(current))
    assert crowding == [(), (), (), (), (1,), (2, 1)]


def test_a_closed_epoch_opens_nothing_and_its_connection_ids_live_on() -> None:
    before = rotation.switch(rotation.announce(first_table(root(1), 0.0), root(2), 1.0, DAY))
    sealed = KeyRing(first_table(root(1), 0.0), TICKET).seal(b"x")
    closed = rotation.close(before, [1, 2])
    assert closed.closed == (1,), "the sealing epoch cannot be closed"
    assert KeyRing(before, TICKET).open(sealed) == b"x"
    assert KeyRing(closed, TICKET).open(sealed) is None
    assert closed.cid_live == (2, 1)
    assert rotation.retire(closed, [1]).numbers == (2,)


def test_the_next_epoch_avoids_the_config_id_of_the_sealing_epoch() -> None:
    assert rotation.next_number(rotation.merge(table(5), table(11).epochs)) == 13
    assert rotation.next_number(rotation.merge(table(5), table(12).epochs)) == 13


@given(st.lists(st.sampled_from(["announce", "worker", "switch", "time"]), max_size=60))
def test_no_worker_ever_seals_with_a_key_that_a_live_worker_lacks(events: list[str]) -> None:
    now_s, number = 0.0, 1
    current = first_table(root(1), now_s)
    workers: list[EpochTable] = [current, current]
    for event in events:
        match event:
            case "time":
                now_s += 5_000.0
            case "worker":
                # The slowest worker catches up with the broadcast.
                workers.append(current)
                workers.pop(0)
            case _:
                acknowledged = [{e.epoch for e in t.epochs} for t in workers]
                match rotation.next_step(current, now_s, 10_000.0, acknowledged, force=event == "announce"):
                    case Step.ANNOUNCE:
                        number += 1
                        if (taken := rotation.blocking(current)) is not None:
                            current = rotation.retire(current, [taken])
                        current = rotation.announce(current, root(number), now_s, DAY)
                    case Step.SWITCH:
                        current = rotation.switch(current)
        # A worker with an older table can open what the newest one seals.
        for behind in workers:
            assert current.seal_with in {e.epoch for e in behind.epochs}
            assert behind.seal_with in {e.epoch for e in current.epochs}
