"""The key schedule derives the same as aioquic's and as HKDF of the `cryptography` package, from any inputs."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from aioquic import tls
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.quic.open_engine import fastest_suites
from velocity_edge.tls import schedule
from velocity_edge.tls.schedule import KeySchedule

suite_ids = st.sampled_from(list(schedule.SUITES))
secrets = st.binary(min_size=32, max_size=112)


@given(
    suite_ids, st.none() | st.binary(min_size=32, max_size=32), secrets, st.lists(st.binary(max_size=300), max_size=4)
)
def test_twin_of_aioquics_schedule(suite: int, psk: bytes | None, shared: bytes, messages: list[bytes]) -> None:
    ours = KeySchedule(schedule.SUITES[suite], psk)
    theirs = tls.KeySchedule(tls.CipherSuite(suite))
    theirs.extract(psk)
    assert ours.binder_key() == theirs.derive_secret(b"res binder")
    for each in messages:
        ours.add(each)
        theirs.update_hash(each)
    assert ours.derive(b"c e traffic") == theirs.derive_secret(b"c e traffic")
    for material, labels in ((shared, (b"c hs traffic", b"s hs traffic")), (None, (b"c ap traffic", b"res master"))):
        ours.mix(material)
        theirs.extract(material)
        for label in labels:
            secret = ours.derive(label)
            assert secret == theirs.derive_secret(label)
            assert ours.finished(secret) == theirs.finished_verify_data(secret)
        ours.add(b"next")
        theirs.update_hash(b"next")


@given(suite_ids, st.binary(max_size=48), st.binary(max_size=200))
def test_hmac(suite: int, key: bytes, message: bytes) -> None:
    chosen = schedule.SUITES[suite]
    name = "sha384" if suite == schedule.AES_256_GCM else "sha256"
    assert chosen.hmac(key, message) == hmac.digest(key, message, name)


@pytest.mark.parametrize("suite", list(schedule.SUITES))
def test_expand_is_hkdf_expand_label(suite: int) -> None:
    chosen = schedule.SUITES[suite]
    secret, context = bytes(range(chosen.digest_bytes)), b"nonce"
    label = b"tls13 resumption"
    info = chosen.digest_bytes.to_bytes(2, "big") + bytes((len(label),)) + label + bytes((len(context),)) + context
    algorithm = hashes.SHA384() if suite == schedule.AES_256_GCM else hashes.SHA256()
    expected = HKDFExpand(algorithm, chosen.digest_bytes, info).derive(secret)
    assert chosen.expand(secret, b"resumption", context) == expected


def test_the_native_engines_hmac_gives_the_same() -> None:
    native = pytest.importorskip("velocity_edge.quic.native", reason="the native engine is not built")
    if not hasattr(native, "hmac_sha256"):
        pytest.skip(f"the native engine is not built: {native.MISSING}")
    for suite_id, suite in fastest_suites().items():
        assert suite.hmac in (native.hmac_sha256, native.hmac_sha384)
        for size in (0, 1, 32, 48):
            for length in (0, 1, 63, 64, 65, 127, 128, 500):
                key, message = bytes(range(size)), bytes(length)
                assert suite.hmac(key, message) == schedule.SUITES[suite_id].hmac(key, message)


def test_a_plugged_hmac_is_used() -> None:
    calls = []

    def counting(key: bytes, message: bytes) -> bytes:
        calls.append(1)
        return hmac.digest(key, message, hashlib.sha256)

    plugged = schedule.suites(hmac_sha256=counting)
    assert calls
    assert plugged[schedule.AES_128_GCM].early_secret == schedule.SUITES[schedule.AES_128_GCM].early_secret
