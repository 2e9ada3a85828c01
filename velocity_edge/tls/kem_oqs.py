"""ML-KEM and ML-DSA by liboqs, where it is installed: signatures 10 times as fast as the `cryptography` package's.

`import oqs` without the C library waits for five seconds, clones and builds it from the network, and raises SystemExit.
So the library is looked up first, in the places where liboqs-python looks, without starting a process; what is found
must load and have what liboqs-python needs. Only then `oqs` is imported, while `subprocess.run` is blocked and its
output is kept from stdout. Call `find` before privileges are dropped.

liboqs is optional: without it `cryptography` computes everything. Both are checked against each other
(tests/unit/velocity_edge/tls/test_kem_oqs.py; tests/interop/test_liboqs_wasm.py where only a WebAssembly build is
available).
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import mldsa

from velocity_edge.pki import mldsa_key
from velocity_edge.pki.signatures import MLDSA44, MLDSA65, MLDSA87, KeySigner, Signer
from velocity_edge.tls import kex
from velocity_edge.tls.kex import Group

#: liboqs changes its soname with each release; 5 was the first with FIPS 203 and 204.
_SONAMES: Final = ("liboqs.so", *(f"liboqs.so.{number}" for number in range(5, 20)))
#: What liboqs-python 0.16 calls and older libraries lack.
_NEEDED_SYMBOL: Final = "OQS_SIG_supports_ctx_str"
_NEEDED_KEMS: Final = ("ML-KEM-768", "ML-KEM-1024")
_SIGNATURES: Final = {MLDSA44: "ML-DSA-44", MLDSA65: "ML-DSA-65", MLDSA87: "ML-DSA-87"}
_KEY_SCHEMES: Final[Mapping[Any, int]] = {
    mldsa.MLDSA44PrivateKey: MLDSA44,
    mldsa.MLDSA65PrivateKey: MLDSA65,
    mldsa.MLDSA87PrivateKey: MLDSA87,
}


@dataclass(frozen=True, slots=True)
class Providers:
    """The implementations in use, and the reason: what `policy.server_policy` and `certs.chain_from_pem` take."""

    groups: Mapping[int, Group]
    make_signer: Callable[[Any], Signer]
    description: str


@cache
def find() -> Providers:
    """Return liboqs where it is available, else `cryptography`; never installs anything. Once per process."""
    oqs, reason = _load()
    if oqs is None:
        return Providers(kex.GROUPS, KeySigner, f"cryptography ({reason})")
    version = str(oqs.oqs_version())

    def make_signer(key: Any) -> Signer:
        scheme = next((s for kind, s in _KEY_SCHEMES.items() if isinstance(key, kind)), None)
        return KeySigner(key) if scheme is None else OqsSigner(oqs, _SIGNATURES[scheme], key)

    groups = kex.groups(OqsKem(oqs, "ML-KEM-768"), OqsKem(oqs, "ML-KEM-1024"))
    return Providers(groups, make_signer, f"liboqs {version}")


def _load() -> tuple[Any, str]:
    """Return (the oqs module, "") or (None, the reason why not)."""
    library, path = None, ""
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
            break
        except OSError as error:
            if "cannot open shared object file" not in str(error):
                return None, f"{path} cannot be loaded: {error}"
    if library is None:
        return None, "liboqs is not installed"
    if not hasattr(library, _NEEDED_SYMBOL):
        return None, f"{path} is too old: it has no {_NEEDED_SYMBOL}"
    try:
        with _nothing_is_installed(), contextlib.redirect_stdout(io.StringIO()):
            # Deliberately late, and guarded by all of the above.
            import oqs  # noqa: TID251
    except (Exception, SystemExit) as error:
        return None, f"liboqs-python cannot use {path}: {error!r}"
    lacks = {*_NEEDED_KEMS} - {*oqs.get_enabled_kem_mechanisms()}
    lacks |= {*_SIGNATURES.values()} - {*oqs.get_enabled_sig_mechanisms()}
    if lacks:
        return None, f"{path} was built without {', '.join(sorted(lacks))}"
    try:
        OqsKem(oqs, "ML-KEM-768").encapsulate(b"\xff" * 1184)
    except ValueError:
        return oqs, ""
    return None, f"{path} encapsulates to keys that FIPS 203 forbids"


def _candidates() -> Iterator[str]:
    yield from _SONAMES
    try:
        root = Path(os.environ.get("OQS_INSTALL_PATH") or Path.home() / "_oqs")
    except RuntimeError:
        # A process without a home directory.
        return
    for folder in ("lib", "lib64"):
        yield str(root / folder / "liboqs.so")


@contextlib.contextmanager
def _nothing_is_installed() -> Iterator[None]:
    """Block subprocess.run, by which liboqs-python clones and builds, as a second line of defence."""
    real = subprocess.run

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("liboqs-python wanted to install liboqs")

    subprocess.run = refuse
    try:
        yield
    finally:
        subprocess.run = real


class OqsKem:
    """A `kex.Kem`. One C object per call, which wipes its secret key when it is freed."""

    def __init__(self, oqs: Any, name: str) -> None:
        self.name = name
        self._new = oqs.KeyEncapsulation
        with self._new(name) as kem:
            self.encapsulation_key_bytes: int = kem.details["length_public_key"]
            self.ciphertext_bytes: int = kem.details["length_ciphertext"]

    def generate(self) -> tuple[Any, bytes]:
        """Return (decapsulation key, encapsulation key)."""
        kem = self._new(self.name)
        return kem, bytes(kem.generate_keypair())

    def encapsulate(self, encapsulation_key: bytes) -> tuple[bytes, bytes]:
        """Return (ciphertext, secret)."""
        if len(encapsulation_key) != self.encapsulation_key_bytes:
            raise ValueError("an encapsulation key of another length")
        with self._new(self.name) as kem:
            try:
                ciphertext, secret = kem.encap_secret(encapsulation_key)
            except RuntimeError as error:
                raise ValueError("not an encapsulation key") from error
        return bytes(ciphertext), bytes(secret)

    def decapsulate(self, decapsulation_key: Any, ciphertext: bytes) -> bytes:
        """Return the secret."""
        with decapsulation_key as kem:
            return bytes(kem.decap_secret(ciphertext))


class OqsSigner:
    """A `signatures.Signer` for an ML-DSA key."""

    def __init__(self, oqs: Any, name: str, key: Any) -> None:
        public, expanded = mldsa_key.expand(name, key.private_bytes_raw())
        if public != key.public_key().public_bytes_raw():
            raise RuntimeError(f"the expanded {name} key is not the key")
        self._signature = oqs.Signature(name, expanded)

    def sign(self, scheme: int, data: bytes) -> bytes:
        """Return the signature of *data*, with the empty context."""
        return bytes(self._signature.sign(data))
