"""A cache of the files of one site: what a response needs of a file, read once and validated each second.

The bytes of a small file are kept, of a large file its descriptor (the engine reads it straight into packets). The
cache is bounded in entries and bytes; the least recently used entry is evicted first. Descriptors are bounded for the
whole process, including those of responses in flight (open_files.py): while they are scarce, none is kept here.
Validation opens the path again and compares size, modification time, inode and device: replaced files, changed links
and removed sidecars are noticed within a second, and requests in between cost no system call.

A file that was changed within the last moments may change again without a new time stamp (the kernel's time stamps have
a granularity of up to 10 ms); such a file is never kept.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from velocity_edge.http.requests import FileRange
from workers.handlers.static.beneath import Descriptor, open_beneath
from workers.handlers.static.cache_control import CacheControl
from workers.handlers.static.conditions import Validators, format_date
from workers.handlers.static.encodings import SIDECARS
from workers.handlers.static.mime import is_compressible, media_type
from workers.handlers.static.open_files import OpenFiles
from workers.http import Response

#: Files up to this size are kept as bytes: one packet train, one reference, no system call per request.
SMALL_BYTES: Final = 64 * 1024
#: A time stamp younger than this may hide a second change.
RACY_NS: Final = 50_000_000

Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Representation:
    """A file in one content coding: its bytes or its descriptor, and the parts of responses that do not vary."""

    signature: Signature
    validators: Validators
    content_type: bytes
    #: Fields that 200, 206 and 304 share (RFC 9110 section 15.4.5: ETag, Vary, Cache-Control, ...).
    common: tuple[tuple[bytes, bytes], ...]
    #: The complete 200.
    whole: Response
    size: int
    body: bytes | None = field(repr=False)
    file: Descriptor | None

    def piece(self, offset: int, length: int) -> bytes | FileRange:
        """Return that part of the body."""
        if self.body is not None:
            return self.body[offset : offset + length]
        assert self.file is not None
        return FileRange(self.file, offset, length)


@dataclass(slots=True)
class Entry:
    """A file and its precompressed variants (best first), as validated at `checked_s`."""

    plain: Representation
    encoded: dict[str, Representation]
    #: Second of the wall clock; 0: the next request must validate it.
    checked_s: int

    @property
    def weight_bytes(self) -> int:
        """Bytes that this entry keeps in memory."""
        return sum(len(r.body) for r in (self.plain, *self.encoded.values()) if r.body is not None)

    @property
    def has_file(self) -> bool:
        """Whether it keeps a descriptor."""
        return any(r.file is not None for r in (self.plain, *self.encoded.values()))


class FileStore:
    """The files below one root, with a bounded cache."""

    def __init__(
        self,
        root: Descriptor,
        clock: Callable[[], float],
        *,
        precompressed: bool = True,
        cache_control: CacheControl | None = None,
        max_entries: int = 256,
        max_bytes: int = 32 * 1024 * 1024,
        open_files: OpenFiles | None = None,
    ) -> None:
        """*clock* is wall time in seconds; *open_files* is shared by all sites of a worker."""
        self._open_files = open_files or OpenFiles()
        self._root = root
        self._clock = clock
        self._sidecars = SIDECARS if precompressed else {}
        self._cache_control = cache_control or CacheControl()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: dict[bytes, Entry] = {}
        self._bytes = 0

    def get(self, path: bytes) -> Entry:
        """Return the file at *path*. Raises OSError: IsADirectoryError, FileNotFoundError (also for other file types),
        PermissionError, and EXDEV for a path that leaves the root.
        """
        now_s = int(self._clock())
        entry = self._entries.pop(path, None)
        if entry is not None:
            self._bytes -= entry.weight_bytes
        if entry is None or entry.checked_s != now_s:
            entry = self._look(path, entry, now_s)
        if self._open_files.crowded:
            self._evict_descriptors()
        if entry.weight_bytes <= self._max_bytes and not (entry.has_file and self._open_files.crowded):
            self._entries[path] = entry  # at the end: most recently used
            self._bytes += entry.weight_bytes
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                oldest = self._entries.pop(next(iter(self._entries)))
                self._bytes -= oldest.weight_bytes
        return entry

    def use_root(self, root: Descriptor) -> None:
        """Serve files below this directory from now on. Cached ones are compared with it before their next use."""
        self._root = root
        for entry in self._entries.values():
            entry.checked_s = 0

    def forget(self) -> None:
        """Drop all cached files, with their descriptors."""
        self._entries = {}
        self._bytes = 0

    def _evict_descriptors(self) -> None:
        """Evict entries with a descriptor, the least recently used first, until descriptors are not scarce."""
        for path in [path for path, entry in self._entries.items() if entry.has_file]:
            self._bytes -= self._entries.pop(path).weight_bytes
            if not self._open_files.crowded:
                return

    def list(self, path: bytes) -> Descriptor:
        """Return the directory at *path*, open. Raises OSError."""
        return Descriptor(open_beneath(self._root.fd, path))

    def _look(self, path: bytes, known: Entry | None, now_s: int) -> Entry:
        kind = media_type(path)
        cache = self._cache_control.of(path)
        plain = self._represent(path, kind, None, cache, known.plain if known else None)
        encoded: dict[str, Representation] = {}
        for coding, suffix in self._sidecars.items() if is_compressible(kind) else ():
            try:
                before = known.encoded.get(coding) if known else None
                encoded[coding] = self._represent(path + suffix, kind, coding, cache, before)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
        settled = all(self._settled(r) for r in (plain, *encoded.values()))
        return Entry(plain, encoded, now_s if settled else 0)

    def _settled(self, representation: Representation) -> bool:
        return self._clock() * 1e9 - representation.signature[1] > RACY_NS

    def _represent(
        self, path: bytes, kind: bytes, coding: str | None, cache: bytes | None, known: Representation | None
    ) -> Representation:
        """Open and read *path*; return *known* if the file is unchanged and had settled."""
        fd = open_beneath(self._root.fd, path)
        try:
            status = os.fstat(fd)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, "neither a file nor a directory", path)
            if known is not None and known.signature == _signature(status) and self._settled(known):
                return known
            body = None
            file = None
            if status.st_size <= SMALL_BYTES:
                body = os.pread(fd, SMALL_BYTES + 1, 0)
                after = os.fstat(fd)
                if len(body) != after.st_size:
                    body = None  # it changed during the read: serve it from the descriptor
                status = after
            if body is None:
                if self._open_files.full:
                    raise OSError(errno.EMFILE, "too many files are open for responses in flight", path)
                os.set_blocking(fd, True)
                file, fd = Descriptor(fd), -1
        finally:
            if fd >= 0:
                os.close(fd)
        return self._describe(status, kind, coding, cache, body, file)

    def _describe(
        self,
        status: os.stat_result,
        kind: bytes,
        coding: str | None,
        cache: bytes | None,
        body: bytes | None,
        file: Descriptor | None,
    ) -> Representation:
        size = status.st_size
        etag = b'"%x-%x-%x"' % (size, status.st_mtime_ns, status.st_ino)
        modified_s: int | None = status.st_mtime_ns // 1_000_000_000
        # A Last-Modified later than now is forbidden (RFC 9110 section 8.8.2.1): such a file has none.
        if modified_s is not None and not 0 <= modified_s <= self._clock():
            modified_s = None
        common = [(b"etag", etag)]
        if modified_s is not None:
            common.append((b"last-modified", format_date(modified_s)))
        if self._sidecars and is_compressible(kind):
            # Also without a sidecar: a cache must not store the first response as valid for every coding.
            common.append((b"vary", b"accept-encoding"))
        if cache:
            common.append((b"cache-control", cache))
        if coding is not None:
            common.append((b"content-encoding", coding.encode()))
        headers = (
            (b"content-type", kind),
            (b"content-length", b"%d" % size),
            *common,
            (b"accept-ranges", b"bytes"),
        )
        whole: bytes | FileRange = body if body is not None else FileRange(_present(file), 0, size)
        return Representation(
            _signature(status),
            Validators(etag, modified_s),
            kind,
            tuple(common),
            Response(200, headers, whole, shared=True),
            size,
            body,
            file,
        )


def _signature(status: os.stat_result) -> Signature:
    return (status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def _present(file: Descriptor | None) -> Descriptor:
    assert file is not None
    return file
