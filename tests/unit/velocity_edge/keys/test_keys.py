"""One epoch table gives every worker the same keys; a rotation never makes anybody seal with a key that others lack."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.errors import ConfigError
from velocity_edge.keys import file as keyfile
from velocity_edge.keys import rotation
from velocity_edge.keys.ring import ADDRESS_TOKEN, TICKET, KeyRing, cid_configs, derive
from velocity_edge.keys.rotation import Step
from velocity_edge.keys.table import MAX_EPOCHS, EpochTable, config_id, first_table, table_of
from velocity_edge.quic.engine_keys import engine_keys
from velocity_edge.wire.cid import CidCodec
from velocity_edge.wire.messages import Epoch, decode_order, encode

DAY = 86_400.0


def root(number: int) -> bytes:
    return number.to_bytes(32, "big")


def table(*numbers: int, seal: int | None = None, every_s: float = 21_600.0) -> EpochTable:
    newest_first = sorted(numbers, reverse=True)
    epochs = tuple(Epoch(epoch=n, created_s=n * every_s, root=root(n)) for n in newest_first)
    return EpochTable(epochs, newest_first[0] if seal is None else seal)


class TestKeys:
    def test_labels_and_epochs_are_independent(self) -> None:
        found = {derive(root(n), label) for n in (1, 2) for label in (TICKET, ADDRESS_TOKEN)}
        given_keys = engine_keys(table(1, 2))
        found |= set(given_keys.reset_keys.values())
        found |= {c.aes_key for c in given_keys.cid_configs} | {c.mask_key for c in given_keys.cid_configs}
        assert len(found) == 4 + 2 + 4

    def test_a_table_of_before_decodes_the_sealing_epoch_and_its_neighbour(self) -> None:
        announced = table(7, 8, 9, seal=8)
        assert [config_id(e) for e in announced.cid_epochs] == [1, 2]
        switched = table(7, 8, 9, seal=9)
        assert [config_id(e) for e in switched.cid_epochs] == [2, 1]
        before, after = (CidCodec(cid_configs(t)) for t in (announced, switched))
        for issuer, reader in ((before, after), (after, before)):
            owner = reader.open(issuer.issue(77, 5))
            assert owner is not None
            assert (owner.node_id, owner.worker_id) == (77, 5)

    def test_reset_keys_follow_config_ids(self) -> None:
        given_keys = engine_keys(table(7, 8))
        assert set(given_keys.reset_keys) == {c.config_id for c in given_keys.cid_configs} == {0, 1}

    def test_the_message_carries_the_table(self) -> None:
        order = decode_order(encode(table(3, 4, 5, seal=4).order()))
        assert table_of(order) == replace(table(3, 4, 5, seal=4), announced=0)  # type: ignore[arg-type]

    def test_secrets_stay_out_of_repr(self) -> None:
        secret = Epoch(epoch=1, created_s=0.0, root=b"\xabsecret-root-of-32-bytes......!!")
        shown = repr(EpochTable((secret,), 1)) + repr(engine_keys(EpochTable((secret,), 1)))
        assert "secret-root" not in shown
        for key in engine_keys(EpochTable((secret,), 1)).reset_keys.values():
            assert repr(key) not in shown

    @pytest.mark.parametrize(
        ("numbers", "seal"), [((), 1), ((1, 1), 1), ((1, 2), 3), ((0,), 0), (tuple(range(1, 18)), 1)]
    )
    def test_what_is_not_a_table(self, numbers: tuple[int, ...], seal: int) -> None:
        with pytest.raises(ValueError, match=r"would be right|are not|not one of"):
            table(*numbers, seal=seal) if numbers else EpochTable((), seal)


class TestKeyRing:
    def ring(self, of: EpochTable, label: bytes = TICKET) -> KeyRing:
        return KeyRing(of, label)

    @given(st.binary(max_size=100), st.binary(max_size=20))
    def test_round_trip(self, plain: bytes, associated: bytes) -> None:
        sealed = self.ring(table(1, 2)).seal(plain, associated)
        assert len(sealed) == len(plain) + KeyRing.OVERHEAD_BYTES
        assert self.ring(table(1, 2, 3)).open(sealed, associated) == plain

    def test_what_does_not_open(self) -> None:
        ring = self.ring(table(1, 2))
        sealed = ring.seal(b"plain", b"peer")
        assert ring.open(sealed, b"other") is None
        assert self.ring(table(1, 2), ADDRESS_TOKEN).open(sealed, b"peer") is None
        assert self.ring(table(1)).open(sealed, b"peer") is None
        for cut in range(len(sealed)):
            assert ring.open(sealed[:cut], b"peer") is None
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 1
            assert ring.open(bytes(changed), b"peer") is None

    def test_announced_opens_but_does_not_seal(self) -> None:
        announced = self.ring(table(1, 2, seal=1))
        assert announced.seal(b"")[:4] == b"\0\0\0\1"
        assert announced.open(self.ring(table(1, 2)).seal(b"x")) == b"x"


class TestRotation:
    def test_one_rotation(self) -> None:
        current = first_table(root(1), 0.0)
        assert rotation.next_step(current, 100.0, 200.0, []) is Step.NOTHING
        assert rotation.next_step(current, 200.0, 200.0, [{1}]) is Step.ANNOUNCE
        current = rotation.announce(current, root(2), 200.0, DAY)
        assert (current.epochs[0].epoch, current.seal_with) == (2, 1)
        assert rotation.next_step(current, 900.0, 200.0, [{1, 2}, {1}]) is Step.NOTHING
        assert rotation.next_step(current, 900.0, 200.0, [{1, 2}, {1, 2}]) is Step.SWITCH
        current = rotation.switch(current)
        assert current.seal_with == 2
        # The new epoch's age counts from when it was made.
        assert rotation.next_step(current, 399.0, 200.0, [{1, 2}]) is Step.NOTHING

    def test_on_demand(self) -> None:
        assert rotation.next_step(table(1), 21_600.0, DAY, [], force=True) is Step.ANNOUNCE

    def test_old_epochs_stay_as_long_as_what_they_sealed(self) -> None:
        current = table(*range(1, 11))
        kept = rotation.expire(current, now_s=10 * 21_600.0, max_age_s=DAY)
        # 6 hours each: 5 stopped sealing 24 h ago (exactly), 4 before that.
        assert [e.epoch for e in kept.epochs] == [10, 9, 8, 7, 6, 5]
        assert [e.epoch for e in rotation.expire(current, 10 * 21_600.0, 0.0).epochs] == [10, 9, 8, 7]

    def test_the_sealing_epoch_never_expires(self) -> None:
        current = table(*range(1, 11), seal=2)
        kept = rotation.expire(current, 10 * 21_600.0, 0.0)
        assert 2 in [e.epoch for e in kept.epochs]
        assert kept.seal_with == 2

    def test_bounded_when_nobody_acknowledges(self) -> None:
        current = first_table(root(1), 0.0)
        for number in range(2, 40):
            current = rotation.switch(rotation.announce(current, root(number), float(number), 1e9))
            current = rotation.retire(current, [number - 6])
        assert len(current.epochs) == MAX_EPOCHS

    def test_import(self) -> None:
        mine = table(3, 5)
        merged = rotation.merge(mine, table(4, 5, 6).epochs)
        assert [e.epoch for e in merged.epochs] == [6, 5, 4, 3]
        # It opens what the other node sealed, and goes on as before: nothing of it seals or issues an id.
        assert (merged.seal_with, merged.announced, merged.cid_live) == (5, 0, mine.cid_live)
        assert rotation.next_step(merged, 0.0, DAY, []) is Step.NOTHING
        assert KeyRing(merged, TICKET).open(KeyRing(table(4, 5, 6), TICKET).seal(b"x")) == b"x"
        assert rotation.next_number(merged) == 7

    def test_collisions_have_names(self) -> None:
        other = [Epoch(epoch=3, created_s=0.0, root=root(99)), *table(4, 5).epochs]
        assert rotation.collisions(table(3, 5), other) == (3,)

    def test_connection_ids_of_every_epoch_decode_until_they_are_retired(self) -> None:
        current = first_table(root(1), 0.0)
        first = CidCodec(cid_configs(current)).issue(77, 5)
        for number in range(2, 8):
            current = rotation.switch(rotation.announce(current, root(number), number * DAY * 9, DAY))
            assert CidCodec(cid_configs(current)).open(first) is not None
            assert config_id(current.epochs[-1]) in engine_keys(current).reset_keys
        assert current.cid_live == (7, 6, 5, 4, 3, 2, 1)
        # The eighth has the place of the first: it waits, and says for whom.
        assert rotation.blocking(current) == 1
        with pytest.raises(ValueError, match="cannot be told apart"):
            rotation.announce(current, root(8), 0.0, DAY)
        current = rotation.retire(current, [1, 7])
        assert current.cid_live == (7, 6, 5, 4, 3, 2), "what seals is never retired"
        assert rotation.blocking(current) is None
        assert rotation.announce(current, root(8), 0.0, DAY).cid_live == (8, 7, 6, 5, 4, 3, 2)

    def test_who_is_in_the_way_is_known_a_rotation_early(self) -> None:
        current, crowding = first_table(root(1), 0.0), []
        for number in range(2, 8):
            current = rotation.switch(rotation.announce(current, root(number), number * DAY * 9, DAY))
            crowding.append(rotation.crowding(current))
        assert crowding == [(), (), (), (), (1,), (2, 1)]

    def test_a_closed_epoch_opens_nothing_and_its_connection_ids_live_on(self) -> None:
        before = rotation.switch(rotation.announce(first_table(root(1), 0.0), root(2), 1.0, DAY))
        sealed = KeyRing(first_table(root(1), 0.0), TICKET).seal(b"x")
        closed = rotation.close(before, [1, 2])
        assert closed.closed == (1,), "what seals cannot be closed"
        assert KeyRing(before, TICKET).open(sealed) == b"x"
        assert KeyRing(closed, TICKET).open(sealed) is None
        assert closed.cid_live == (2, 1)
        assert rotation.retire(closed, [1]).numbers == (2,)

    def test_the_next_number_has_not_the_config_id_of_the_one_that_seals(self) -> None:
        assert rotation.next_number(rotation.merge(table(5), table(11).epochs)) == 13
        assert rotation.next_number(rotation.merge(table(5), table(12).epochs)) == 13

    @given(st.lists(st.sampled_from(["announce", "worker", "switch", "time"]), max_size=60))
    def test_nobody_ever_seals_with_what_a_live_worker_lacks(self, happenings: list[str]) -> None:
        now_s, number = 0.0, 1
        current = first_table(root(1), now_s)
        workers: list[EpochTable] = [current, current]
        for happening in happenings:
            match happening:
                case "time":
                    now_s += 5_000.0
                case "worker":
                    # The slowest worker catches up with the broadcast.
                    workers.append(current)
                    workers.pop(0)
                case _:
                    acknowledged = [{e.epoch for e in t.epochs} for t in workers]
                    match rotation.next_step(current, now_s, 10_000.0, acknowledged, force=happening == "announce"):
                        case Step.ANNOUNCE:
                            number += 1
                            if (taken := rotation.blocking(current)) is not None:
                                current = rotation.retire(current, [taken])
                            current = rotation.announce(current, root(number), now_s, DAY)
                        case Step.SWITCH:
                            current = rotation.switch(current)
            # Whoever runs with an older table can open what the newest one seals.
            for behind in workers:
                assert current.seal_with in {e.epoch for e in behind.epochs}
                assert behind.seal_with in {e.epoch for e in current.epochs}


class TestFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / "tickets.json"
        assert keyfile.load(path) is None
        rich = rotation.close(
            rotation.announce(rotation.merge(table(3, 4, 5), table(9).epochs), root(10), 0.0, DAY), [4]
        )
        for stored in (table(1), table(3, 4, 5, seal=4), rich):
            keyfile.save(path, stored)
            assert keyfile.load(path) == stored
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [p.name for p in tmp_path.iterdir()] == ["tickets.json"]

    def test_the_first_version_reads_what_we_write_and_we_read_what_it_wrote(self) -> None:
        current = rotation.announce(table(3, 4, 5), root(6), 0.0, DAY)
        written = json.loads(keyfile.dump(current))
        assert (written["version"], written["seal_with"]) == (1, 5)
        assert {"epoch", "created_s", "root"} == set(written["epochs"][0])
        for later in ("cid_epochs", "closed", "announced"):
            del written[later]
        # It had no names for these: the newest was announced if it did not seal, two were live.
        assert keyfile.parse(json.dumps(written).encode(), "t.json") == replace(current, cid_live=(6, 5))

    def test_mode_does_not_depend_on_umask(self, tmp_path: Path) -> None:
        old = os.umask(0o777)
        try:
            keyfile.save(tmp_path / "t.json", table(1))
        finally:
            os.umask(old)
        assert stat.S_IMODE((tmp_path / "t.json").stat().st_mode) == 0o600

    def test_readable_by_others_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "t.json"
        keyfile.save(path, table(1))
        path.chmod(0o640)
        with pytest.raises(ConfigError, match=r"cannot trust keys that others can read \(mode 0640\): chmod 600 it"):
            keyfile.load(path)

    def test_fields_of_a_later_version_are_ignored(self) -> None:
        document = json.loads(keyfile.dump(table(1))) | {"from_the_future": 1}
        document["epochs"][0]["origin"] = "etcd"
        assert keyfile.parse(json.dumps(document).encode(), "t.json") == table(1)

    def test_the_file_of_0_1_0_is_read(self) -> None:
        """This text is never changed: such files exist."""
        root = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
        epoch = f'{{"epoch": 7, "created_s": 1790000000.0, "root": "{root}"}}'
        text = f'{{"version": 1, "seal_with": 7, "epochs": [{epoch}]}}'
        read = keyfile.parse(text.encode(), "t.json")
        assert (read.seal_with, read.epochs[0].root) == (7, bytes(range(32)))

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"[" * 50_000, "not JSON"),
            (b"[]", "version 1 would be right"),
            (b'{"version": 2}', "version 1 would be right"),
            (b'{"version": 1}', "a field is missing or wrong (KeyError)"),
            (b'{"version": 1, "seal_with": 1, "epochs": []}', "0 epochs, 1 to 16 would be right"),
            (b'{"version": 1, "seal_with": 1, "epochs": [{"epoch": 1, "created_s": 0, "root": "AAAA"}]}', "32 bytes"),
            (b'{"version": 1, "seal_with": 1, "epochs": [{"epoch": 1, "created_s": 0, "root": "??"}]}', "(Error)"),
            (b'{"version": 1, "seal_with": 1e999, "epochs": [{"epoch": 1}]}', "cannot read the keys"),
            (b"x" * 70_000, "larger than 65536 bytes"),
        ],
    )
    def test_damaged(self, tmp_path: Path, content: bytes, reason: str) -> None:
        path = tmp_path / "t.json"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(ConfigError) as caught:
            keyfile.load(path)
        assert str(path) in str(caught.value)
        assert "cannot read the keys" in str(caught.value)
        assert reason in str(caught.value)
        assert keyfile.set_aside(path).read_bytes() == content
        assert keyfile.load(path) is None

    @given(st.binary(max_size=200))
    def test_any_bytes(self, content: bytes) -> None:
        with pytest.raises(ConfigError, match="cannot read the keys"):
            keyfile.parse(content, "t.json")

    def test_every_cut_is_noticed(self) -> None:
        whole = keyfile.dump(table(1, 2)).rstrip()
        for end in range(len(whole)):
            with pytest.raises(ConfigError):
                keyfile.parse(whole[:end], "t.json")

    def test_the_error_quotes_no_key(self, tmp_path: Path) -> None:
        content = keyfile.dump(table(1)).replace(b'"created_s": 21600.0', b'"created_s": "soon"')
        with pytest.raises(ConfigError) as caught:
            keyfile.parse(content, "t.json")
        assert "AAAA" not in str(caught.value)

    def test_where_it_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="cannot store the keys: Not a directory"):
            keyfile.save(tmp_path / "file" / "t.json", table(1))
        # A folder that somebody removed is made again.
        keyfile.save(tmp_path / "nowhere" / "t.json", table(1))
        assert keyfile.load(tmp_path / "nowhere" / "t.json") == table(1)

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        keyfile.save(tmp_path / "t.json", table(1))
        (tmp_path / "link").symlink_to(tmp_path / "t.json")
        with pytest.raises(ConfigError, match="cannot read the keys"):
            keyfile.load(tmp_path / "link")
