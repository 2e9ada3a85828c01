"""bpf/quic.h compiled for this machine: the computations of the packet programs, callable from Python."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import dataclass
from pathlib import Path

from velocity_edge.wire.cid import CidConfig

BPF = Path(__file__).parents[2] / "bpf"

_WRAPPER = b"""
#include "quic.h"
int twin_parse(const unsigned char *p, unsigned readable, unsigned length, struct quic_packet *out)
{ return quic_parse(p, p + readable, length, out); }
int twin_worker_of(const unsigned char *cid, unsigned length, const struct quic_keys *keys)
{ return quic_worker_of(cid, length, keys); }
unsigned long long twin_siphash13(const struct quic_key *key, unsigned long long m0, unsigned long long m1)
{ return quic_siphash13(key, m0, m1); }
"""


class _Packet(ctypes.Structure):
    _fields_ = (
        ("dcid", ctypes.c_void_p),
        ("version", ctypes.c_uint),
        ("kind", ctypes.c_ubyte),
        ("dcid_length", ctypes.c_ubyte),
        ("scid_length", ctypes.c_ubyte),
        ("has_token", ctypes.c_ubyte),
    )


class _Keys(ctypes.Structure):
    _fields_ = (("key", ctypes.c_ubyte * 128), ("active", ctypes.c_ubyte), ("unused", ctypes.c_ubyte * 7))


@dataclass(frozen=True)
class Parsed:
    """`struct quic_packet`, with the id as bytes when all of it can be read."""

    kind: int
    version: int
    dcid_length: int
    scid_length: int
    has_token: int
    dcid: bytes | None


class Twin:
    """The compiled header. `sanitize` builds it with UBSan, trapping."""

    def __init__(self, directory: Path) -> None:
        library = directory / "twin.so"
        flags = ["-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
        traps = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
        command = ["cc", *flags, *traps, f"-I{BPF}", "-xc", "-", "-o", str(library)]
        subprocess.run(command, input=_WRAPPER, check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.twin_siphash13.restype = ctypes.c_ulonglong

    def parse(self, datagram: bytes, readable: int | None = None) -> Parsed:
        out = _Packet()
        window = len(datagram) if readable is None else readable
        buffer = (ctypes.c_ubyte * max(window, 1)).from_buffer_copy(datagram[:window] or b"\0")
        kind = self._library.twin_parse(buffer, window, len(datagram), ctypes.byref(out))
        assert kind == out.kind
        offset = (out.dcid or ctypes.addressof(buffer)) - ctypes.addressof(buffer)
        dcid = datagram[offset : offset + out.dcid_length] if offset + out.dcid_length <= len(datagram) else None
        return Parsed(kind, out.version, out.dcid_length, out.scid_length, out.has_token, dcid)

    def worker_of(self, cid: bytes, configs: list[CidConfig]) -> int | None:
        keys = _Keys()
        for config in configs:
            keys.key[config.config_id * 16 : config.config_id * 16 + 16] = list(config.mask_key)
            keys.active |= 1 << config.config_id
        worker_id: int = self._library.twin_worker_of(cid, len(cid), ctypes.byref(keys))
        return None if worker_id < 0 else worker_id

    def siphash13(self, key: bytes, block: bytes) -> int:
        m0, m1 = (ctypes.c_ulonglong(int.from_bytes(block[i : i + 8], "little")) for i in (0, 8))
        digest: int = self._library.twin_siphash13(key, m0, m1)
        return digest
