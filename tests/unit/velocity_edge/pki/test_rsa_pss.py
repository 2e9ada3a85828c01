"""An RSASSA-PSS key signs under rsa_pss_pss_*, any other RSA key under rsa_pss_rsae_*, never the other way round."""

from __future__ import annotations

import functools

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support import tls as support
from velocity_edge.errors import ConfigError
from velocity_edge.pki import der, signatures
from velocity_edge.tls import certs, codec
from velocity_edge.tls.alerts import AlertDescription

RSAE = (0x0804, 0x0805, 0x0806)
PSS = (0x0809, 0x080A, 0x080B)
OIDS = {"sha256": "608648016503040201", "sha384": "608648016503040202"}
OIDS |= {"sha512": "608648016503040203", "sha3-256": "608648016503040208"}


def encode(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    length = len(value)
    return bytes((tag,)) + (bytes((length,)) if length < 128 else b"\x82" + length.to_bytes(2, "big")) + value


def identifier(oid: str, *parameters: bytes) -> bytes:
    return encode(der.SEQUENCE, encode(der.OBJECT_IDENTIFIER, bytes.fromhex(oid)), *parameters)


def restricted(digest: str, *, mask: str = "", salt: int | None = None, null: bool = True) -> bytes:
    """RSASSA-PSS-params (RFC 4055 section 3.1)."""
    of = identifier(OIDS[digest], *([b"\5\0"] if null else []))
    of_mask = identifier(OIDS[mask or digest], *([b"\5\0"] if null else []))
    parts = [encode(0xA0, of), encode(0xA1, identifier("2a864886f70d010108", of_mask))]
    if salt is not None:
        parts.append(encode(0xA2, encode(der.INTEGER, bytes((salt,)))))
    return encode(der.SEQUENCE, *parts)


@functools.cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def leaf(parameters: bytes | None) -> x509.Certificate:
    """A certificate of `key` that names it RSASSA-PSS. `cryptography` makes none, so an ordinary one is rewritten."""
    root = support.authority()
    plain = support.certificate("x", key().public_key(), root.name, root.key, ca=False, names=[support.NAME])
    parts = der.sequence(plain.tbs_certificate_bytes)
    _, public = der.sequence(parts[6])
    parts[6] = encode(der.SEQUENCE, identifier("2a864886f70d01010a", *([parameters] if parameters else [])), public)
    tbs = encode(der.SEQUENCE, *parts)
    _, algorithm, _ = der.sequence(plain.public_bytes(Encoding.DER))
    signature = encode(3, b"\0", root.key.sign(tbs, ec.ECDSA(hashes.SHA256())))
    return x509.load_der_x509_certificate(encode(der.SEQUENCE, tbs, algorithm, signature))


def test_an_rsa_key_signs_by_the_algorithm_of_its_certificate() -> None:
    assert support.chain("rsa").schemes == RSAE
    assert certs.chain("x", [leaf(None)], key()).schemes == PSS


@pytest.mark.parametrize(
    ("parameters", "schemes"),
    [
        (restricted("sha256", salt=32), (0x0809,)),
        (restricted("sha384", salt=48), (0x080A,)),
        (restricted("sha512", salt=64), (0x080B,)),
        (restricted("sha256", salt=32, null=False), (0x0809,)),
        # The salt of a key is the least that it allows; the default is 20.
        (restricted("sha256", salt=16), (0x0809,)),
        (restricted("sha256"), (0x0809,)),
        (restricted("sha256", salt=33), ()),
        (restricted("sha256", mask="sha384", salt=32), ()),
        (restricted("sha3-256", salt=32), ()),
        # All defaults: SHA-1.
        (encode(der.SEQUENCE), ()),
    ],
)
def test_the_parameters_of_a_key_restrict_it(parameters: bytes, schemes: tuple[int, ...]) -> None:
    assert signatures.schemes_of(leaf(parameters)) == schemes
    if not schemes:
        with pytest.raises(ConfigError, match=r"cannot use x: TLS 1\.3 has no signatures for its key"):
            certs.chain("x", [leaf(parameters)], key())


@pytest.mark.parametrize("scheme", PSS)
def test_a_client_that_knows_only_this_scheme_connects(scheme: int) -> None:
    chain = certs.chain("x", [leaf(None)], key())
    pair = support.run(support.policy(chain), support.client(signature_schemes=(scheme,)))
    assert pair.alert is None, pair.client.alert_reason
    assert pair.client.signature_scheme == scheme


def test_a_client_without_these_schemes_gets_an_alert() -> None:
    chain = certs.chain("x", [leaf(None)], key())
    pair = support.run(support.policy(chain), support.client(signature_schemes=RSAE))
    assert pair.alert == ("server", AlertDescription.HANDSHAKE_FAILURE)


@pytest.mark.parametrize(("wrong", "pss"), [(0x0804, True), (0x0809, False)])
def test_our_client_refuses_the_scheme_of_the_other_kind(wrong: int, pss: bool) -> None:
    """The signature is valid, its scheme is not (RFC 8446 section 4.2.3)."""
    chain = certs.chain("x", [leaf(None)], key()) if pss else support.chain("rsa")

    def rename(receiver: str, level: int, data: bytes) -> bytes:
        if data[0] != codec.CERTIFICATE_VERIFY:
            return data
        return data[:4] + wrong.to_bytes(2, "big") + data[6:]

    pair = support.run(support.policy(chain), support.client(), tamper=rename)
    assert pair.alert == ("client", AlertDescription.ILLEGAL_PARAMETER), pair.client.alert_reason
