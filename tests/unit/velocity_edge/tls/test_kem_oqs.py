"""liboqs is used only where it is complete, nothing is installed, and it agrees with `cryptography` both ways.

The library itself is in no Debian release; without it the last part skips (tests/interop/test_liboqs_wasm.py checks our
keys and arithmetic against a WebAssembly build of it).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import mldsa

from tests.support import tls as support
from velocity_edge.pki import mldsa_key, signatures
from velocity_edge.tls import kem_oqs, kex

KEY_TYPES = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, 2560),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, 4032),
    "ML-DSA-87": (mldsa.MLDSA87PrivateKey, 4896),
}


def describe(tmp_path: Path, may_start: tuple[str, ...] = ()) -> str:
    """What `find` returns in a new process whose liboqs, if any, is in *tmp_path*/lib."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("git", "cmake", "gcc", "ldconfig"):
        (tools / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/started\n")
        (tools / name).chmod(0o755)
    code = "from velocity_edge.tls import kem_oqs; print(kem_oqs.find().description)"
    environment = {"PATH": str(tools), "OQS_INSTALL_PATH": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=20, check=True
    )
    started = (tmp_path / "started").read_text().split() if (tmp_path / "started").exists() else []
    assert set(started) <= set(may_start)
    assert found.stderr == ""
    return found.stdout.strip()


def build(tmp_path: Path, source: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "lib").mkdir()
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", tmp_path / "lib" / "liboqs.so"],
        input=source.encode(),
        check=True,
        env=os.environ,
    )


needs_no_liboqs = pytest.mark.skipif(
    kem_oqs.find().description.startswith("liboqs"), reason="a liboqs is installed on this system"
)


@needs_no_liboqs
@pytest.mark.slow
class TestFind:
    def test_absent(self, tmp_path: Path) -> None:
        assert describe(tmp_path) == "cryptography (liboqs is not installed)"

    def test_a_file_that_is_no_library(self, tmp_path: Path) -> None:
        (tmp_path / "lib").mkdir()
        (tmp_path / "lib" / "liboqs.so").write_bytes(b"garbage")
        assert "cannot be loaded" in describe(tmp_path)

    def test_too_old(self, tmp_path: Path) -> None:
        build(tmp_path, "int OQS_version(void) { return 0; }")
        assert "is too old: it has no OQS_SIG_supports_ctx_str" in describe(tmp_path)

    def test_a_library_that_liboqs_python_cannot_use(self, tmp_path: Path) -> None:
        build(tmp_path, "int OQS_SIG_supports_ctx_str(void) { return 0; }")
        # Its own search (ctypes.util.find_library) may ask the linker; it must not clone or build.
        assert "liboqs-python cannot use" in describe(tmp_path, may_start=("gcc", "ldconfig"))


@pytest.mark.parametrize("name", list(KEY_TYPES))
def test_expanded_keys_have_the_public_key_of_their_seed(name: str) -> None:
    kind, size = KEY_TYPES[name]
    for _ in range(3):
        key = kind.generate()
        public, expanded = mldsa_key.expand(name, key.private_bytes_raw())
        assert public == key.public_key().public_bytes_raw()
        assert len(expanded) == size
        assert expanded[:32] == public[:32]


def test_the_library_agrees_with_cryptography() -> None:
    providers = kem_oqs.find()
    if not providers.description.startswith("liboqs"):
        pytest.skip(providers.description)
    for group in (g.id for g in kex.GROUPS.values() if g.post_quantum):
        for client, server in ((kex.GROUPS, providers.groups), (providers.groups, kex.GROUPS)):
            state, share = client[group].start()
            answer, secret = server[group].respond(share)
            assert client[group].finish(state, answer) == secret
    for kind in ("mldsa44", "mldsa65", "mldsa87"):
        key = support.KEYS[kind]()
        [scheme] = signatures.schemes_of_key(key.public_key())
        assert signatures.verify(key.public_key(), scheme, providers.make_signer(key).sign(scheme, b"data"), b"data")
