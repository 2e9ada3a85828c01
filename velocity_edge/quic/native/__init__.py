"""The native engine: ngtcp2 and nghttp3 in a C extension, with our own TLS in Python (docs/adr/0005-native-engine.md).

The extension is optional. Where it is not built, or its libraries are missing, this package can still be imported:
`NativeEngine` is not in it, and `MISSING` says why (velocity_edge/quic/open_engine.py decides what to do then). Its C
files are in this folder; docs/native-engine.md says what each is for.
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
