"""Loads bytecode with its maps.

The programs refer to their maps by placeholders (maps.h, MAP): an ld_imm64 with the pseudo source register and a magic
number plus the index of the map in abi.MAPS. `load` replaces them by descriptors. So the sockets map of a selection
program is decided at load time: there is one loaded program per listener, from the same bytecode.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bpf import BpfError, abi, compile, kernel, linux
from bpf.linux import AttachType, ProgramType

_PLACEHOLDER: Final = 0x5645000
_LD_IMM64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """A program: its source file, and the types that the kernel needs to load it."""

    source: str
    type: ProgramType
    attach: AttachType


#: By the name of its C function.
PROGRAMS: Final[Mapping[str, Kind]] = {
    "shield": Kind("xdp.c", ProgramType.XDP, AttachType.XDP),
    "arrived": Kind("xdp.c", ProgramType.XDP, AttachType.XDP_CPUMAP),
    "choose_socket": Kind("reuseport.c", ProgramType.SK_REUSEPORT, AttachType.SK_REUSEPORT_SELECT),
}


def with_maps(instructions: bytes, maps: Mapping[str, int]) -> bytes:
    """Return *instructions* with the descriptors of *maps* (by name) in place of the placeholders."""
    code = bytearray(instructions)
    at = 0
    while at < len(code):
        if code[at] != _LD_IMM64:
            at += 8
            continue
        if code[at + 1] >> 4 == _PSEUDO_MAP_FD:
            (value,) = struct.unpack_from("<I", code, at + 4)
            index = value - _PLACEHOLDER
            if not 0 <= index < len(abi.MAPS):
                raise BpfError(f"cannot use this bytecode: unknown map placeholder {value:#x}")
            struct.pack_into("<I", code, at + 4, maps[abi.MAPS[index].name])
        at += 16
    return bytes(code)


def warm_up(cache_dir: Path) -> None:
    """Compile all programs that are not in the cache, so that the start is fast. Raises `BpfError`."""
    for source in sorted({kind.source for kind in PROGRAMS.values()}):
        compile.bytecode(source, cache_dir)


def load(function: str, maps: Mapping[str, int], cache_dir: Path, *, frags: bool = False) -> int:
    """Compile (or find) and load a program of PROGRAMS; return its descriptor.

    *frags*: the program accepts packets in several fragments of memory (jumbo frames, GRO in generic mode).
    """
    kind = PROGRAMS[function]
    instructions = with_maps(compile.bytecode(kind.source, cache_dir)[function], maps)
    return kernel.load_program(function, instructions, kind.type, kind.attach, linux.XDP_HAS_FRAGS if frags else 0)
