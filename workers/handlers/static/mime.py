"""Media types by file name extension. The table is built in: /etc/mime.types of the machine is not used.

Text types have charset=utf-8; JSON has no charset by definition (RFC 8259 section 11). Together with `nosniff`, a file
with an unknown extension is downloaded, not interpreted.
"""

from __future__ import annotations

import re
from typing import Final

_TEXT: Final = {
    "css": "text/css",
    "csv": "text/csv",
    "htm": "text/html",
    "html": "text/html",
    "ics": "text/calendar",
    "js": "text/javascript",
    "log": "text/plain",
    "md": "text/markdown",
    "mjs": "text/javascript",
    "txt": "text/plain",
    "vtt": "text/vtt",
    "xml": "application/xml",
    "atom": "application/atom+xml",
    "rss": "application/rss+xml",
    "xhtml": "application/xhtml+xml",
    "svg": "image/svg+xml",
}

_OTHER: Final = {
    "7z": "application/x-7z-compressed",
    "aac": "audio/aac",
    "apng": "image/apng",
    "avif": "image/avif",
    "bin": "application/octet-stream",
    "bmp": "image/bmp",
    "br": "application/x-brotli",
    "bz2": "application/x-bzip2",
    "deb": "application/vnd.debian.binary-package",
    "epub": "application/epub+zip",
    "flac": "audio/flac",
    "gif": "image/gif",
    "gz": "application/gzip",
    "ico": "image/x-icon",
    "iso": "application/octet-stream",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "json": "application/json",
    "jsonld": "application/ld+json",
    "jxl": "image/jxl",
    "m3u8": "application/vnd.apple.mpegurl",
    "m4a": "audio/mp4",
    "m4s": "video/iso.segment",
    "map": "application/json",
    "mkv": "video/x-matroska",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "mpd": "application/dash+xml",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "opus": "audio/ogg",
    "otf": "font/otf",
    "pdf": "application/pdf",
    "png": "image/png",
    "rpm": "application/x-rpm",
    "tar": "application/x-tar",
    "tgz": "application/gzip",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "ts": "video/mp2t",
    "ttf": "font/ttf",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "webm": "video/webm",
    "webmanifest": "application/manifest+json",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "xz": "application/x-xz",
    "zip": "application/zip",
    "zst": "application/zstd",
}

_BY_EXTENSION: Final = {
    **{extension.encode(): f"{kind}; charset=utf-8".encode() for extension, kind in _TEXT.items()},
    **{extension.encode(): kind.encode() for extension, kind in _OTHER.items()},
}

OCTET_STREAM: Final = b"application/octet-stream"


#: Types that are compressed already: no sidecar is searched for.
_COMPRESSED: Final = re.compile(
    rb"(image/(?!svg|bmp|x-icon|tiff)|video/|audio/(?!wav)|font/woff|application/(zip|gzip|zstd|x-(7z|brotli|bzip2|xz)|epub|pdf))"
)


def is_compressible(kind: bytes) -> bool:
    """Return whether files of this media type are worth compressing."""
    return _COMPRESSED.match(kind) is None


def media_type(path: bytes) -> bytes:
    """Return the Content-Type for a file of this name."""
    name = path.rpartition(b"/")[2]
    stem, dot, extension = name.rpartition(b".")
    return _BY_EXTENSION.get(extension.lower(), OCTET_STREAM) if dot and stem else OCTET_STREAM
