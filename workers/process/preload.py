"""Imports everything that is imported lazily elsewhere: after the privileges are dropped no file can be read.

The list is found by experiment: a worker logs at its end what was imported after `everything` (`late`), and integration
tests fail if it does.
"""

from __future__ import annotations

import importlib
import linecache
import sys
import traceback
from typing import Final

from velocity_edge.quic.open_engine import fastest_suites
from velocity_edge.tls import kem_oqs
from workers import plugins
from workers.proxy.client.tls import remember_authorities

_LAZY: Final = (
    "asyncio.staggered",
    "asyncio.taskgroups",
    "cryptography.hazmat.backends.openssl.backend",
    "cryptography.hazmat.primitives.asymmetric.mldsa",
    *(f"dns.rdtypes.ANY.{name}" for name in ("CNAME", "DNAME", "NS", "OPT", "RRSIG", "SOA", "TXT")),
    "dns._asyncio_backend",
    "dns.rdtypes.IN.A",
    "dns.rdtypes.IN.AAAA",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.utf_8",
    "jinja2.debug",
    "unicodedata",
)

_known: frozenset[str] = frozenset()


def everything() -> None:
    """Import what would be imported later, and record which modules are loaded."""
    global _known
    for name in _LAZY:
        importlib.import_module(name)
    kem_oqs.find()  # searches the file system for liboqs
    remember_authorities()  # of the system, for upstreams by TLS
    fastest_suites()  # the portable engine uses the native engine's HMAC, too
    plugins.INSTALLED.load()
    # A traceback shows source lines; without them it still names the place.
    try:
        raise RuntimeError
    except RuntimeError as error:
        "".join(traceback.format_exception(error))
    linecache.clearcache()
    _known = frozenset(sys.modules)


def late() -> list[str]:
    """Return the modules that were imported since `everything`."""
    return sorted(name for name in sys.modules if name not in _known) if _known else []
