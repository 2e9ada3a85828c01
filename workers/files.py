"""Reads the files that a configuration names: through descriptors, as a worker may open no file (config/needs.py).

Short because it only reads; which files there are is in the sections of the configuration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from velocity_edge.errors import ConfigError
from velocity_edge.http.requests import OpenFile

#: Path -> its descriptor, as it came with the configuration.
Roots = Mapping[str, OpenFile]


def read_file(roots: Roots, path: Path, max_bytes: int) -> bytes:
    """Return the content of the file that a section named by `Need(path, "file")`. Raises `ConfigError`.

    All workers have the same open file: it is read by offset, so that no reader moves another's.
    """
    file = roots.get(os.fspath(path))
    if file is None:
        raise ConfigError(f"cannot read {path}: it did not come with the configuration")
    parts: list[bytes] = []
    size = 0
    while size <= max_bytes:
        try:
            part = os.pread(file.fd, max_bytes + 1 - size, size)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise ConfigError(f"cannot use {path}: larger than {max_bytes} bytes")
