"""Which chain a client gets: one table of clients and what each is shown, and handshakes that agree with it."""

from __future__ import annotations

import pytest

from tests.support import tls as support
from velocity_edge.errors import ConfigError
from velocity_edge.pki import signatures
from velocity_edge.pki.signatures import ECDSA_P256_SHA256, MLDSA44, MLDSA65, MLDSA87
from velocity_edge.tls.alerts import Alert, AlertDescription
from velocity_edge.tls.certs import Chain
from velocity_edge.tls.chains import CertStore
from velocity_edge.tls.client_hello import ClientHello
from velocity_edge.tls.codec import EXT_CERTIFICATE_AUTHORITIES
from velocity_edge.tls.trust import Trust
from velocity_edge.tls.vectors import opaque

RSA_PSS_SHA256 = 0x0804
ALL = signatures.ALL_SCHEMES
CLASSICAL = (ECDSA_P256_SHA256, RSA_PSS_SHA256)

#: Several chains: for one name, for a wildcard, for all others; post-quantum ones with and without an audience.
CHAINS = {
    "ecdsa": support.authority("p256").issue(["a.test"]),
    "rsa": support.authority("p256").issue(["a.test"], "rsa"),
    "mldsa65 velocity": support.authority("mldsa65").issue(["a.test"], audience=["velocity/1"]),
    "wildcard": support.authority("p256").issue(["*.test"]),
    "other mldsa44": support.authority("mldsa44").issue(["b.example"]),
    "other ecdsa": support.authority("p256").issue(["b.example"]),
}
MLDSA_ROOT = support.authority("mldsa65").root.subject.public_bytes()


def hello(name: str | None, schemes: tuple[int, ...] | None, *roots: bytes) -> ClientHello:
    extensions = {EXT_CERTIFICATE_AUTHORITIES: opaque(b"".join(opaque(r, 2) for r in roots), 2)} if roots else {}
    found = ClientHello(b"", b"", b"", (), b"\0", extensions)
    found.server_name, found.signature_schemes = name, schemes
    return found


@pytest.mark.parametrize(
    ("name", "schemes", "alpn", "roots", "shown", "scheme"),
    [
        # The audience: by ALPN, by a root that the client names, not by its signature schemes alone.
        ("a.test", ALL, b"h3", (), "ecdsa", ECDSA_P256_SHA256),
        ("a.test", ALL, b"velocity/1", (), "mldsa65 velocity", MLDSA65),
        ("a.test", ALL, b"h3", (MLDSA_ROOT,), "mldsa65 velocity", MLDSA65),
        ("a.test", ALL, b"h3", (b"another root",), "ecdsa", ECDSA_P256_SHA256),
        ("a.test", CLASSICAL, b"velocity/1", (), "ecdsa", ECDSA_P256_SHA256),
        ("a.test", CLASSICAL, b"h3", (MLDSA_ROOT,), "ecdsa", ECDSA_P256_SHA256),
        # The schemes: the first chain that the client can verify, in the order of the configuration.
        ("a.test", (RSA_PSS_SHA256,), b"h3", (), "rsa", RSA_PSS_SHA256),
        ("a.test", (RSA_PSS_SHA256, ECDSA_P256_SHA256), b"h3", (), "ecdsa", ECDSA_P256_SHA256),
        # The name: exactly, by a wildcard for one label, or any.
        ("c.test", ALL, b"velocity/1", (), "wildcard", ECDSA_P256_SHA256),
        ("b.example", ALL, b"h3", (), "other mldsa44", MLDSA44),
        ("b.example", CLASSICAL, b"h3", (), "other ecdsa", ECDSA_P256_SHA256),
        ("d.c.test", CLASSICAL, b"h3", (), "ecdsa", ECDSA_P256_SHA256),
        (None, ALL, b"velocity/1", (), "mldsa65 velocity", MLDSA65),
        (None, ALL, b"h3", (), "other mldsa44", MLDSA44),
        (None, CLASSICAL, b"h3", (), "ecdsa", ECDSA_P256_SHA256),
    ],
)
def test_the_chain_that_a_client_gets(
    name: str | None, schemes: tuple[int, ...], alpn: bytes, roots: tuple[bytes, ...], shown: str, scheme: int
) -> None:
    assert CertStore(list(CHAINS.values())).choose(hello(name, schemes, *roots), alpn) == (CHAINS[shown], scheme)


@pytest.mark.parametrize(
    ("schemes", "alert"),
    [
        (None, AlertDescription.MISSING_EXTENSION),
        ((MLDSA87,), AlertDescription.HANDSHAKE_FAILURE),
        ((MLDSA65,), AlertDescription.HANDSHAKE_FAILURE),  # there is one, for another audience
    ],
)
def test_a_client_that_can_verify_no_chain_is_refused(schemes: tuple[int, ...] | None, alert: AlertDescription) -> None:
    with pytest.raises(Alert) as raised:
        CertStore(list(CHAINS.values())).choose(hello("a.test", schemes), b"h3")
    assert raised.value.description == alert


def test_profiles_order_post_quantum_chains() -> None:
    chains = [support.chain(kind) for kind in ("p256", "mldsa44", "mldsa65", "mldsa87")]
    first = {
        profile: support.policy(*chains, default_profile=profile).certs.chains[0].schemes[0]
        for profile in ("light", "balanced", "secure")
    }
    assert first == {"light": MLDSA44, "balanced": MLDSA65, "secure": MLDSA87}


def test_a_server_has_a_chain() -> None:
    with pytest.raises(ConfigError, match="cannot serve without a certificate"):
        CertStore([])


@pytest.mark.parametrize(("alpn", "scheme"), [((b"h3",), ECDSA_P256_SHA256), ((b"h3", b"velocity/1"), MLDSA65)])
def test_a_handshake_presents_the_chain_of_the_audience(alpn: tuple[bytes, ...], scheme: int) -> None:
    chains: list[Chain] = [support.chain("p256"), support.chain("mldsa65", ("velocity/1",))]
    kind = "p256" if scheme == ECDSA_P256_SHA256 else "mldsa65"
    client = support.client(alpn=alpn, trust=Trust(roots_pem=support.authority(kind).root_pem))
    pair = support.run(support.policy(*chains, alpn=("velocity/1", "h3")), client)
    assert pair.alert is None
    assert pair.server.done
    assert pair.client.signature_scheme == pair.server.signature_scheme == scheme
