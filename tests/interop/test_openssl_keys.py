"""Keys as OpenSSL writes them can be served, and OpenSSL connects; unusable ones are refused with a repair."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import sid
from tests.support.node import running_node
from tests.support.peers import openssl
from velocity_edge.errors import ConfigError
from velocity_edge.pki.private_keys import load_private_key

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _sid() -> None:
    sid.require("test")


def make(directory: Path, *algorithm: str) -> tuple[Path, Path]:
    """Return (certificate, key): self-signed for localhost."""
    certificate, key = directory / "c.pem", directory / "k.pem"
    made = sid.run("openssl", "genpkey", *algorithm, "-out", key)
    assert made.returncode == 0, made.stderr
    made = sid.run(
        *("openssl", "req", "-x509", "-key", key, "-out", certificate, "-days", "30", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-addext", "keyUsage=digitalSignature,keyCertSign"),
    )
    assert made.returncode == 0, made.stderr
    return certificate, key


PSS = ("-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048")


@pytest.mark.parametrize(
    ("algorithm", "scheme"),
    [
        (("-algorithm", "ML-DSA-65"), "mldsa65"),
        (("-algorithm", "ML-DSA-87", "-provparam", "ml-dsa.output_formats=bare-seed"), "mldsa87"),
        (PSS, "rsa_pss_pss_sha256"),
        (
            (*PSS, "-pkeyopt", "rsa_pss_keygen_md:sha384", "-pkeyopt", "rsa_pss_keygen_mgf1_md:sha384"),
            "rsa_pss_pss_sha384",
        ),
    ],
    ids=["both", "bare seed", "rsa-pss", "rsa-pss restricted"],
)
def test_openssl_connects_to_a_node_with_an_openssl_key(
    short_dir: Path, algorithm: tuple[str, ...], scheme: str
) -> None:
    certificate, key = make(short_dir, *algorithm)
    text = f"server: {{listen: ['127.0.0.1:0'], workers: 1, tls: {{certificate: {certificate}, private_key: {key}}}}}\n"
    text += "content: {sites: [{hostname: '*', root: DIRECTORY}]}\n"
    with running_node(config=text) as node:
        run = openssl(f"127.0.0.1:{node.port}", ca=certificate)
        assert run.connected, run.log
        assert run.verified
        assert scheme in run.log


@pytest.mark.parametrize("form", ["priv-only", "oqskeypair", "bare-priv"])
def test_error_for_a_key_without_seed_prints_a_working_command(short_dir: Path, form: str) -> None:
    key = short_dir / "k.pem"
    argv = ("openssl", "genpkey", "-algorithm", "ML-DSA-65", "-provparam", f"ml-dsa.output_formats={form}", "-out", key)
    assert sid.run(*argv).returncode == 0
    with pytest.raises(ConfigError, match="without its seed") as caught:
        load_private_key(key.read_bytes(), str(key))
    line = str(caught.value).split("`")[1].split()
    assert sid.run(*line).returncode == 0
    assert load_private_key((short_dir / "k.new.pem").read_bytes(), "k.new.pem")
