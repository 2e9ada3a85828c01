"""XDP links, and pins in bpffs: what keeps a program attached and an object alive without the process that made it.

Each function is one system call (linux.py). Which links and pins there are is decided in pins.py and
supervisor/steering/shield.py.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from bpf.linux import AttachType, Command, XdpMode, call, object_info


def pin(fd: int, path: Path) -> None:
    """Give an object a name in bpffs, which keeps it alive."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    call(Command.OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def open_pin(path: Path) -> int:
    """Return a descriptor of a pinned object."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return call(Command.OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))[0]


def link_xdp(program_fd: int, interface_index: int, mode: XdpMode) -> int:
    """Attach to an interface of the current network namespace. It ends with the last descriptor or pin of the link."""
    return call(Command.LINK_CREATE, struct.pack("=IIII", program_fd, interface_index, AttachType.XDP, mode))[0]


def update_link(link_fd: int, program_fd: int) -> None:
    """Replace the program of a link atomically. ENOLINK: the interface is gone."""
    call(Command.LINK_UPDATE, struct.pack("=IIII", link_fd, program_fd, 0, 0))


def detach_link(link_fd: int) -> None:
    """Detach at once, also when other processes hold the link."""
    call(Command.LINK_DETACH, struct.pack("=I", link_fd))


def link_interface(link_fd: int) -> int:
    """Return the index of the interface that an XDP link is attached to; 0 when that interface is gone."""
    _type, _id, _program, index = struct.unpack_from("=III4xI", object_info(link_fd))
    return int(index)
