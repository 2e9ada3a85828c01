"""`--self-signed` makes a certificate that clients can pin, and uses it again while it is valid."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import tls as support
from velocity_edge.errors import ConfigError
from velocity_edge.pki.files import fingerprint, spki_pin
from velocity_edge.pki.self_signed import LIFETIME, self_signed
from velocity_edge.tls import certs
from velocity_edge.tls.trust import Trust

NOW = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)


def test_names_lifetime_and_modes(tmp_path: Path) -> None:
    loaded = self_signed(tmp_path / "state", ["example.com", "192.0.2.7"], now=NOW)
    leaf = loaded.leaf
    assert isinstance(leaf.public_key(), ec.EllipticCurvePublicKey)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "example.com"} <= set(names.get_values_for_type(x509.DNSName))
    addresses = {str(a) for a in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "::1", "192.0.2.7"}
    assert leaf.not_valid_after_utc == NOW + LIFETIME
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert stat.S_IMODE((tmp_path / "state" / "self-signed.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_valid_certificate_is_used_again(tmp_path: Path) -> None:
    first = self_signed(tmp_path, now=NOW)
    later = NOW + datetime.timedelta(days=80)
    assert fingerprint(self_signed(tmp_path, now=later).leaf) == fingerprint(first.leaf)
    nearly = NOW + datetime.timedelta(days=84)
    assert fingerprint(self_signed(tmp_path, now=nearly).leaf) != fingerprint(first.leaf)


def test_another_name_or_a_damaged_key_needs_a_new_certificate(tmp_path: Path) -> None:
    first = fingerprint(self_signed(tmp_path, now=NOW).leaf)
    second = fingerprint(self_signed(tmp_path, ["new.test"], now=NOW).leaf)
    assert first != second
    # A certificate with more names than needed is used again.
    assert fingerprint(self_signed(tmp_path, now=NOW).leaf) == second
    (tmp_path / "self-signed.key").write_text("damaged")
    assert fingerprint(self_signed(tmp_path, now=NOW).leaf) != second


def test_clients_can_pin_the_certificate(tmp_path: Path) -> None:
    loaded = self_signed(tmp_path, [support.NAME])
    policy = support.policy(certs.chain_from_pem(loaded.keyed))
    trust = Trust(roots_pem=loaded.keyed.certificate_pem)
    for name in (support.NAME, "localhost", "127.0.0.1", "::1"):
        pair = support.run(policy, support.client(server_name=name, trust=trust))
        assert pair.alert is None, pair.client.alert_reason
    assert fingerprint(loaded.leaf) == fingerprint(pair.client.certificates[0])
    assert len(fingerprint(loaded.leaf)) == 95
    assert len(spki_pin(loaded.leaf)) == 44


@pytest.mark.parametrize("name", ["", "a b", "x/y", "\N{SNOWMAN}" * 70])
def test_an_invalid_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot make a certificate for"):
        self_signed(tmp_path, [name], now=NOW)


def test_an_unusable_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep the self-signed certificate in"):
        self_signed(tmp_path / "file" / "state", now=NOW)
