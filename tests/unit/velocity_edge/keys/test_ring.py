"""The keys of epochs and labels are independent; a sealed text opens unchanged with its own key and with no other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.epoch_tables import root, table
from velocity_edge.keys.ring import ADDRESS_TOKEN, TICKET, KeyRing, derive
from velocity_edge.keys.table import EpochTable
from velocity_edge.quic.engine_keys import engine_keys
from velocity_edge.wire.messages import Epoch


def test_labels_and_epochs_are_independent() -> None:
    found = {derive(root(n), label) for n in (1, 2) for label in (TICKET, ADDRESS_TOKEN)}
    given_keys = engine_keys(table(1, 2))
    found |= set(given_keys.reset_keys.values())
    found |= {c.aes_key for c in given_keys.cid_configs} | {c.mask_key for c in given_keys.cid_configs}
    assert len(found) == 4 + 2 + 4


def test_reset_keys_follow_config_ids() -> None:
    given_keys = engine_keys(table(7, 8))
    assert set(given_keys.reset_keys) == {c.config_id for c in given_keys.cid_configs} == {0, 1}


def test_secrets_stay_out_of_repr() -> None:
    secret = Epoch(epoch=1, created_s=0.0, root=b"\xabsecret-root-of-32-bytes......!!")
    shown = repr(EpochTable((secret,), 1)) + repr(engine_keys(EpochTable((secret,), 1)))
    assert "secret-root" not in shown
    for key in engine_keys(EpochTable((secret,), 1)).reset_keys.values():
        assert repr(key) not in shown


def ring_of(of: EpochTable, label: bytes = TICKET) -> KeyRing:
    return KeyRing(of, label)


@given(st.binary(max_size=100), st.binary(max_size=20))
def test_round_trip(plain: bytes, associated: bytes) -> None:
    sealed = ring_of(table(1, 2)).seal(plain, associated)
    assert len(sealed) == len(plain) + KeyRing.OVERHEAD_BYTES
    assert ring_of(table(1, 2, 3)).open(sealed, associated) == plain


def test_a_changed_text_another_peer_label_or_epoch_does_not_open() -> None:
    ring = ring_of(table(1, 2))
    sealed = ring.seal(b"plain", b"peer")
    assert ring.open(sealed, b"other") is None
    assert ring_of(table(1, 2), ADDRESS_TOKEN).open(sealed, b"peer") is None
    assert ring_of(table(1)).open(sealed, b"peer") is None
    for cut in range(len(sealed)):
        assert ring.open(sealed[:cut], b"peer") is None
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        assert ring.open(bytes(changed), b"peer") is None


def test_an_announced_epoch_opens_but_does_not_seal() -> None:
    announced = ring_of(table(1, 2, seal=1))
    assert announced.seal(b"")[:4] == b"\0\0\0\1"
    assert announced.open(ring_of(table(1, 2)).seal(b"x")) == b"x"
