"""A certificate is used only with its own key, errors name the file, and --self-signed keeps what it made."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.support import tls as support
from velocity_edge.errors import ConfigError
from velocity_edge.pki.files import fingerprint, load_chain, spki_pin
from velocity_edge.pki.self_signed import LIFETIME, self_signed
from velocity_edge.tls import certs
from velocity_edge.tls.certs import Chain
from velocity_edge.tls.trust import Trust

NOW = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)


def write(directory: Path, chain: Chain, *, with_root: bool = False) -> tuple[Path, Path]:
    certificate, key = directory / "fullchain.pem", directory / "privkey.pem"
    pem = b"".join(c.public_bytes(Encoding.PEM) for c in chain.certificates)
    certificate.write_bytes(pem + (support.authority().root_pem if with_root else b""))
    private = chain.signer._key  # type: ignore[attr-defined]
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, key


class TestFiles:
    @pytest.mark.parametrize("kind", list(support.KEYS))
    def test_every_kind_of_key(self, tmp_path: Path, kind: str) -> None:
        loaded = load_chain(*write(tmp_path, support.chain(kind)), audience=["velocity/1"])
        assert loaded.warnings == ()
        chain = certs.chain_from_pem(loaded.keyed)
        assert chain.schemes == support.chain(kind).schemes
        assert chain.audience == {b"velocity/1"}
        assert chain.names == {support.NAME}

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"cannot use \S+/no\.pem: No such file or directory"):
            load_chain(tmp_path / "no.pem", tmp_path / "no.key")

    def test_not_a_certificate(self, tmp_path: Path) -> None:
        certificate, key = write(tmp_path, support.chain())
        certificate.write_text("hello")
        with pytest.raises(ConfigError, match=r"cannot use \S+/fullchain\.pem: no PEM certificate in it"):
            load_chain(certificate, key)

    def test_not_a_key(self, tmp_path: Path) -> None:
        certificate, key = write(tmp_path, support.chain())
        key.write_text("secret words")
        with pytest.raises(ConfigError, match=r"cannot use \S+/privkey\.pem: not an unencrypted PEM") as caught:
            load_chain(certificate, key)
        assert "secret" not in str(caught.value)

    def test_encrypted_key(self, tmp_path: Path) -> None:
        certificate, key = write(tmp_path, support.chain())
        private = ec.generate_private_key(ec.SECP256R1())
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
        with pytest.raises(ConfigError, match="not an unencrypted PEM private key"):
            load_chain(certificate, key)

    def test_another_key(self, tmp_path: Path) -> None:
        certificate, key = write(tmp_path, support.chain())
        key.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        with pytest.raises(ConfigError, match=r"privkey\.pem: it is not the key of the first certificate in \S+full"):
            load_chain(certificate, key)

    def test_a_key_that_tls_has_no_signatures_for(self, tmp_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256K1())
        leaf = support.certificate("x", key.public_key(), "x", key, ca=False)
        with pytest.raises(ConfigError, match=r"TLS 1\.3 has no signatures for its key"):
            certs.chain("x.pem", [leaf], key)

    def test_warnings(self, tmp_path: Path) -> None:
        [expired] = load_chain(*write(tmp_path, support.authority().issue(days=-1))).warnings
        assert "fullchain.pem expired on" in expired
        [soon] = load_chain(*write(tmp_path, support.authority().issue(days=5))).warnings
        assert "expires on" in soon
        [broken] = load_chain(*write(tmp_path, support.authority("p384").issue(), with_root=True)).warnings
        assert "certificate 1 is not issued by the next one" in broken
        assert load_chain(*write(tmp_path, support.authority().issue(), with_root=True)).warnings == ()


class TestSelfSigned:
    def test_what_it_is(self, tmp_path: Path) -> None:
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

    def test_used_again_while_it_is_good(self, tmp_path: Path) -> None:
        first = self_signed(tmp_path, now=NOW)
        later = NOW + datetime.timedelta(days=80)
        assert fingerprint(self_signed(tmp_path, now=later).leaf) == fingerprint(first.leaf)
        nearly = NOW + datetime.timedelta(days=84)
        assert fingerprint(self_signed(tmp_path, now=nearly).leaf) != fingerprint(first.leaf)

    def test_made_anew_for_another_name_or_when_broken(self, tmp_path: Path) -> None:
        first = fingerprint(self_signed(tmp_path, now=NOW).leaf)
        second = fingerprint(self_signed(tmp_path, ["new.test"], now=NOW).leaf)
        assert first != second
        # Fewer names than it has are no reason.
        assert fingerprint(self_signed(tmp_path, now=NOW).leaf) == second
        (tmp_path / "self-signed.key").write_text("damaged")
        assert fingerprint(self_signed(tmp_path, now=NOW).leaf) != second

    def test_clients_can_pin_it(self, tmp_path: Path) -> None:
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
    def test_names_that_are_none(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match="cannot make a certificate for"):
            self_signed(tmp_path, [name], now=NOW)

    def test_where_it_cannot_be_kept(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match="cannot keep the self-signed certificate in"):
            self_signed(tmp_path / "file" / "state", now=NOW)
