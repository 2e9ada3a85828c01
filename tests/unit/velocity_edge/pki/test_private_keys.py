"""Every private key is read, or refused with an error that names the file and, where there is one, the remedy."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, mldsa, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import tls as support
from velocity_edge.errors import ConfigError
from velocity_edge.pki import der, mldsa_key
from velocity_edge.pki.files import UnusableFile, load_chain
from velocity_edge.pki.private_keys import load_private_key

KINDS = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, "608648016503040311"),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, "608648016503040312"),
    "ML-DSA-87": (mldsa.MLDSA87PrivateKey, "608648016503040313"),
}
SEED = bytes(range(32))


def encode(tag: int, value: bytes) -> bytes:
    length = len(value)
    return bytes((tag,)) + (bytes((length,)) if length < 128 else b"\x82" + length.to_bytes(2, "big")) + value


def pkcs8(kind: str, private: bytes) -> bytes:
    algorithm = encode(der.SEQUENCE, encode(der.OBJECT_IDENTIFIER, bytes.fromhex(KINDS[kind][1])))
    key = encode(der.SEQUENCE, encode(der.INTEGER, b"\0") + algorithm + encode(der.OCTET_STRING, private))
    return armour("PRIVATE KEY", key)


def armour(label: str, data: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(data) + f"-----END {label}-----\n".encode()


def forms(kind: str, expanded: bytes, seed: bytes = SEED) -> dict[str, bytes]:
    tagged = encode(der.OCTET_STRING, expanded)
    return {
        "seed": encode(der.CONTEXT_0, seed),
        "bare seed": seed,
        "both": encode(der.SEQUENCE, encode(der.OCTET_STRING, seed) + tagged),
        "expanded": tagged,
        "bare expanded": expanded,
        "with the public key": encode(der.OCTET_STRING, expanded + bytes(1952)),
    }


@pytest.mark.parametrize("kind", KINDS)
class TestMldsa:
    @pytest.mark.parametrize("form", ["seed", "bare seed", "both"])
    def test_a_key_with_its_seed_is_read(self, kind: str, form: str) -> None:
        key = load_private_key(pkcs8(kind, forms(kind, mldsa_key.expand(kind, SEED)[1])[form]), "k.pem")
        assert isinstance(key, KINDS[kind][0])
        assert key.private_bytes_raw() == SEED

    @pytest.mark.parametrize("form", ["expanded", "bare expanded", "with the public key"])
    def test_an_expanded_key_alone_is_refused_with_a_command_for_another(self, kind: str, form: str) -> None:
        data = pkcs8(kind, forms(kind, mldsa_key.expand(kind, SEED)[1])[form])
        with pytest.raises(ConfigError) as caught:
            load_private_key(data, "/etc/k.pem")
        text = str(caught.value)
        assert text.startswith(f"cannot use /etc/k.pem: it holds the expanded {kind} key without its seed")
        assert (
            f"`openssl genpkey -algorithm {kind} -provparam ml-dsa.output_formats=seed-only -out /etc/k.new.pem`"
            in text
        )

    def test_halves_that_do_not_match_are_refused(self, kind: str) -> None:
        other = mldsa_key.expand(kind, bytes(32))[1]
        with pytest.raises(ConfigError, match=r"cannot use k\.pem: the seed and the expanded .* do not match"):
            load_private_key(pkcs8(kind, forms(kind, other)["both"]), "k.pem")

    @pytest.mark.parametrize("cut", [0, 1, 31, 33, 40, 2000])
    def test_other_lengths_are_refused(self, kind: str, cut: int) -> None:
        with pytest.raises(ConfigError, match=rf"cannot use k\.pem: not an {kind} private key"):
            load_private_key(pkcs8(kind, forms(kind, mldsa_key.expand(kind, SEED)[1])["both"][:cut]), "k.pem")

    def test_a_seed_of_another_length_is_refused(self, kind: str) -> None:
        for seed in (bytes(31), bytes(33)):
            for form in ("seed", "both"):
                with pytest.raises(ConfigError, match="not an ML-DSA"):
                    load_private_key(pkcs8(kind, forms(kind, mldsa_key.expand(kind, SEED)[1], seed)[form]), "k.pem")


def test_a_key_with_both_halves_is_sent_as_a_seed(tmp_path: Path) -> None:
    """Workers of earlier versions read only this form."""
    chain = support.chain("mldsa65")
    seed = chain.signer._key.private_bytes_raw()  # type: ignore[attr-defined]
    (tmp_path / "c.pem").write_bytes(chain.certificates[0].public_bytes(Encoding.PEM))
    (tmp_path / "k.pem").write_bytes(
        pkcs8("ML-DSA-65", forms("ML-DSA-65", mldsa_key.expand("ML-DSA-65", seed)[1], seed)["both"])
    )
    keyed = load_chain(tmp_path / "c.pem", tmp_path / "k.pem").keyed
    assert der.pem_block(keyed.private_key_pem, b"PRIVATE KEY") == der.pem_block(
        pkcs8("ML-DSA-65", encode(der.CONTEXT_0, seed)), b"PRIVATE KEY"
    )


def private(key: object, encryption: object = None, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption())  # type: ignore[attr-defined, no-any-return]


EC_KEY = ec.generate_private_key(ec.SECP256R1())
REFUSED: dict[str, tuple[bytes, str]] = {
    "encrypted PKCS 8": (private(EC_KEY, BestAvailableEncryption(b"x")), "it is encrypted; `openssl pkey -in k.pem"),
    "encrypted in the form of before": (
        private(EC_KEY, BestAvailableEncryption(b"x"), PrivateFormat.TraditionalOpenSSL),
        "it is encrypted; `openssl pkey -in k.pem",
    ),
    "encrypted, with CRLF": (
        private(EC_KEY, BestAvailableEncryption(b"x"), PrivateFormat.TraditionalOpenSSL).replace(b"\n", b"\r\n"),
        "it is encrypted",
    ),
    "DER": (
        EC_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        "it is DER, not PEM; `openssl pkey -inform DER -in k.pem -out k.new.pem`",
    ),
    "a public key": (
        EC_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "not an unencrypted PEM private key",
    ),
    "a certificate": (support.chain().certificates[0].public_bytes(Encoding.PEM), "not an unencrypted PEM"),
    "nothing": (b"", "not an unencrypted PEM private key"),
    "damaged base64": (private(EC_KEY).replace(b"MIG", b"M*G"), "not an unencrypted PEM private key"),
    # An unknown algorithm: 1.2.3.4.
    "an unknown algorithm": (
        armour("PRIVATE KEY", encode(0x30, b"\2\1\0" + encode(0x30, b"\6\3\x2a\3\4") + encode(4, bytes(32)))),
        "expected ECDSA, RSA, Ed25519 or ML-DSA",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_the_file_and_the_remedy(case: str) -> None:
    data, said = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        load_private_key(data, "k.pem")
    assert str(caught.value).startswith("cannot use k.pem: ")
    assert said in str(caught.value)


def test_text_around_a_key_is_ignored() -> None:
    key = private(EC_KEY, form=PrivateFormat.TraditionalOpenSSL)
    parameters = armour("EC PARAMETERS", bytes.fromhex("06082a8648ce3d030107"))
    certificate = support.chain().certificates[0].public_bytes(Encoding.PEM)
    for data in (parameters + key, certificate + key, key + certificate, b"words\n" + key, key.replace(b"\n", b"\r\n")):
        assert load_private_key(data, "k.pem").public_key() == EC_KEY.public_key()


@pytest.mark.parametrize(
    "key", [x25519.X25519PrivateKey.generate(), dsa.generate_private_key(2048), rsa.generate_private_key(65537, 1024)]
)
def test_keys_that_tls_does_not_sign_with_or_that_clients_refuse(tmp_path: Path, key: object) -> None:
    public = key.public_key()  # type: ignore[attr-defined]
    root = support.authority()
    leaf = support.certificate("x", public, root.name, root.key, ca=False, names=["x"])
    (tmp_path / "c.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (tmp_path / "k.pem").write_bytes(private(key))
    with pytest.raises(
        UnusableFile, match=r"c\.pem: (TLS 1\.3 has no signatures|clients refuse RSA keys of 1024 bits)"
    ):
        load_chain(tmp_path / "c.pem", tmp_path / "k.pem")


def test_a_chain_in_the_wrong_order_is_reported(tmp_path: Path) -> None:
    chain, root = support.chain(), support.authority().root
    pem_of = (root.public_bytes(Encoding.PEM), chain.certificates[0].public_bytes(Encoding.PEM))
    (tmp_path / "c.pem").write_bytes(b"".join(pem_of))
    (tmp_path / "k.pem").write_bytes(private(chain.signer._key))  # type: ignore[attr-defined]
    with pytest.raises(UnusableFile, match=r"it is the key of certificate 2: the leaf must be the first") as caught:
        load_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    assert caught.value.path == tmp_path / "k.pem"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120), st.sampled_from(sorted(KINDS)), st.booleans())
def test_any_bytes_give_a_key_or_a_config_error(data: bytes, kind: str, framed: bool) -> None:
    try:
        load_private_key(pkcs8(kind, data) if framed else data, "k.pem")
    except ConfigError as error:
        assert str(error).startswith("cannot use k.pem: ")  # noqa: PT017


@given(st.binary(max_size=60))
def test_der_is_read_or_refused(data: bytes) -> None:
    for read in (der.element, der.sequence, lambda d: der.content(d, der.INTEGER)):
        with contextlib.suppress(ValueError):
            read(data)


def test_unusual_certificates_are_served_with_a_warning(tmp_path: Path) -> None:
    root = support.authority()
    key = support.KEYS["p256"]()
    leaf = support.certificate("x", key.public_key(), root.name, root.key, ca=False)
    (tmp_path / "c.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (tmp_path / "k.pem").write_bytes(private(key))
    warnings = " ".join(load_chain(tmp_path / "c.pem", tmp_path / "k.pem").warnings)
    assert "no subjectAltName" in warnings
