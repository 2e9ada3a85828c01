"""The native engine: ngtcp2 and nghttp3 in a C extension, with our own TLS in Python (docs/adr/0005-native-engine.md).

The extension is optional: where it was not built, or its libraries are gone, this package imports all the same,
`NativeEngine` is not in it, and `MISSING` says why (velocity_edge/quic/open_engine.py decides what follows from that).
Its C files are beside this one; base.h says what each is for.
"""

from __future__ import annotations

MISSING = ""
_NOT_BUILT = "its extension module is not built (`make build`, or `python -m velocity_edge.quic.native.build`)"

try:
    from velocity_edge.quic.native._native import (
        NativeEngine,
        hmac_sha256,
        hmac_sha384,
        library_versions,
    )
except ImportError as _error:
    MISSING = str(_error) if "_native'" not in str(_error) else _NOT_BUILT
else:
    __all__ = ["NativeEngine", "hmac_sha256", "hmac_sha384", "library_versions"]
