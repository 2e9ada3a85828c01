"""liboqs, in its WebAssembly build, agrees with our ML-KEM and ML-DSA: an independent implementation.

No Debian release has the C library; npm has this. It also shows that the private keys which velocity_edge/pki/
mldsa_key.py expands for liboqs are complete: a signature made with one verifies.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import tls as support
from velocity_edge.pki import mldsa_key, signatures
from velocity_edge.tls import kex
from velocity_edge.tls.kex import Kem

pytestmark = [pytest.mark.interop, pytest.mark.slow]

PACKAGE, VERSION = "@openforge-sh/liboqs", "0.14.3"
SCRIPT = Path(__file__).parents[1] / "support" / "liboqs.mjs"


class Liboqs:
    """The process; `ask` is one call."""

    def __init__(self, folder: Path) -> None:
        module = folder / "node_modules" / PACKAGE / "src" / "index.js"
        self.process = subprocess.Popen(
            ["node", SCRIPT, str(module)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, verb: str, name: str, **values: bytes) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        question = {"verb": verb, "name": name} | {key: value.hex() for key, value in values.items()}
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return {k: bytes.fromhex(v) if isinstance(v, str) and k != "error" else v for k, v in answer.items()}


@pytest.fixture(scope="module")
def liboqs() -> Iterator[Liboqs]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    cache = os.environ.get("VELOCITY_CACHE") or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "velocity-edge"
    )
    folder = Path(cache) / f"liboqs-wasm-{VERSION}"
    if not (folder / "node_modules").exists():
        folder.mkdir(parents=True, exist_ok=True)
        installed = subprocess.run(
            [
                "npm",
                "install",
                "--silent",
                "--ignore-scripts",
                "--no-audit",
                "--prefix",
                folder,
                f"{PACKAGE}@{VERSION}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if installed.returncode != 0:
            shutil.rmtree(folder)
            pytest.skip(f"npm cannot install {PACKAGE}@{VERSION}: {installed.stderr[-200:]}")
    running = Liboqs(folder)
    yield running
    assert running.process.stdin is not None
    assert running.process.stdout is not None
    running.process.stdin.close()
    running.process.wait(10)
    running.process.stdout.close()


@pytest.mark.parametrize("kem", [kex.MLKEM768, kex.MLKEM1024], ids=lambda kem: kem.name)
class TestMlKem:
    def test_our_key_opens_a_liboqs_ciphertext(self, liboqs: Liboqs, kem: Kem) -> None:
        private, public = kem.generate()
        answer = liboqs.ask("encapsulate", kem.name, public=public)
        assert kem.decapsulate(private, answer["ciphertext"]) == answer["secret"]

    def test_liboqs_key_opens_our_ciphertext(self, liboqs: Liboqs, kem: Kem) -> None:
        pair = liboqs.ask("keypair", kem.name)
        ciphertext, secret = kem.encapsulate(pair["public"])
        assert liboqs.ask("decapsulate", kem.name, ciphertext=ciphertext, key=pair["secret"])["secret"] == secret

    def test_both_refuse_a_non_reduced_key(self, liboqs: Liboqs, kem: Kem) -> None:
        bad = b"\xff" * kem.encapsulation_key_bytes
        assert "error" in liboqs.ask("encapsulate", kem.name, public=bad)
        with pytest.raises(ValueError):  # noqa: PT011 (the text is the library's)
            kem.encapsulate(bad)


@pytest.mark.parametrize("name", list(mldsa_key.PARAMETERS))
class TestMlDsa:
    def test_liboqs_verifies_our_signature(self, liboqs: Liboqs, name: str) -> None:
        key = support.KEYS[name.lower().replace("-", "")]()
        [scheme] = signatures.schemes_of_key(key.public_key())
        signature = signatures.KeySigner(key).sign(scheme, b"data")
        public = key.public_key().public_bytes_raw()
        assert liboqs.ask("verify", name, data=b"data", signature=signature, public=public)["valid"]
        assert not liboqs.ask("verify", name, data=b"dada", signature=signature, public=public)["valid"]

    def test_signature_with_our_expanded_key_verifies(self, liboqs: Liboqs, name: str) -> None:
        key = support.KEYS[name.lower().replace("-", "")]()
        [scheme] = signatures.schemes_of_key(key.public_key())
        _, expanded = mldsa_key.expand(name, key.private_bytes_raw())
        signature = liboqs.ask("sign", name, data=b"data", key=expanded)["signature"]
        assert signatures.verify(key.public_key(), scheme, signature, b"data")
        assert not signatures.verify(key.public_key(), scheme, signature, b"dada")
