"""A certificate is used only with its own key, and errors name the file."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from tests.support import tls as support
from velocity_edge.errors import ConfigError
from velocity_edge.pki.files import load_chain
from velocity_edge.tls import certs
from velocity_edge.tls.certs import Chain

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
