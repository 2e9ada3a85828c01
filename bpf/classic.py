"""Steering for machines without rights (tier A): a classic BPF program, generated, that chooses a socket by our ids.

SO_ATTACH_REUSEPORT_CBPF needs no capability. The program returns an index into the reuseport group: the sockets in
the order in which they were bound. So the sockets of a listener are bound in the order of their slots and stay open,
and the index is the slot. There are no maps: who is known and who accepts are constants in the program, and a change
is a new program, attached atomically. Offset 0 is the first byte of QUIC.

What this tier cannot do: drop (what does not decode goes to an accepting worker, which drops it), count, pin a
handshake across a change of the accepting set, and outlive a closed socket: the last one of the group moves into the
hole.

What surprises: SipHash-1-3 is made of 64-bit words, and classic BPF has one 32-bit accumulator, an index register and
16 cells. A word is a pair of cells; a rotation by 32 swaps their names and costs nothing. About 1000 instructions.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bpf import BpfError
from bpf.kernel import SO_ATTACH_REUSEPORT_CBPF

MAX_INSTRUCTIONS = 4096
#: No QUIC packet with an id of ours is shorter; loads behind the end would choose socket 0.
_MIN_LENGTH = 26

# <linux/bpf_common.h> and <linux/filter.h>: class, size and mode in one number each.
_LD_BYTE, _LD_WORD, _LD_LENGTH, _LD_CONSTANT, _LD_CELL = 0x30, 0x20, 0x80, 0x00, 0x60
_LD_BYTE_AT_X, _LD_WORD_AT_X = 0x50, 0x40
_LDX_CONSTANT, _LDX_CELL = 0x01, 0x61
_STORE = 0x02
_ADD_X, _MULTIPLY, _MODULO, _OR_X, _AND, _SHIFT_LEFT, _SHIFT_RIGHT = 0x0C, 0x24, 0x94, 0x4C, 0x54, 0x64, 0x74
_XOR, _XOR_X = 0xA4, 0xAC
_JUMP, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_GREATER_EQUAL_X, _JUMP_BITS = 0x05, 0x15, 0x35, 0x3D, 0x45
_RETURN, _TAX, _TXA = 0x06, 0x07, 0x87


@dataclass(frozen=True, slots=True)
class _Word:
    """A 64-bit word in two cells."""

    low: int
    high: int

    def swapped(self) -> _Word:
        """Rotated by 32."""
        return _Word(self.high, self.low)


# The 16 cells.
_V0, _V1, _V2, _V3 = (_Word(i, i + 1) for i in (0, 2, 4, 6))
_M0, _M1 = _Word(8, 9), _Word(10, 11)
_CID_AT, _SCRATCH, _SCRATCH_2 = 12, 13, 14


class _Assembler:
    """Instructions with labels. Conditional jumps reach 255 further, `jump` reaches everywhere."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | int, str | int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}

    def emit(self, operation: int, k: int = 0) -> None:
        self._code.append((operation, k & 0xFFFFFFFF, 0, 0))

    def branch(self, operation: int, k: int, yes: str | int = 0, no: str | int = 0) -> None:
        """Jump to a label, or over a number of instructions."""
        self._code.append((operation, k & 0xFFFFFFFF, yes, no))

    def jump(self, label: str) -> None:
        self._jumps[len(self._code)] = label
        self.emit(_JUMP)

    def label(self, name: str) -> None:
        self._labels[name] = len(self._code)

    def bytes(self) -> bytes:
        if len(self._code) > MAX_INSTRUCTIONS:
            raise BpfError(
                f"cannot steer with classic BPF: {len(self._code)} instructions, and {MAX_INSTRUCTIONS} is the most; "
                "fewer workers, or tier B, are needed"
            )
        out = bytearray()
        for at, (operation, k, yes, no) in enumerate(self._code):
            if at in self._jumps:
                k = self._labels[self._jumps[at]] - at - 1
            out += struct.pack("=HBBI", operation, self._distance(yes, at), self._distance(no, at), k)
        return bytes(out)

    def _distance(self, target: str | int, at: int) -> int:
        return target if isinstance(target, int) else self._labels[target] - at - 1

    # --- 64-bit arithmetic on cells ---

    def add(self, to: _Word, other: _Word) -> None:
        self.emit(_LD_CELL, to.low)
        self.emit(_LDX_CELL, other.low)
        self.emit(_ADD_X)
        self.emit(_STORE, to.low)
        self.branch(_JUMP_GREATER_EQUAL_X, 0, yes=4)  # a sum that is not less than a summand has no carry
        self.emit(_LD_CELL, to.high)
        self.emit(_LDX_CONSTANT, 1)
        self.emit(_ADD_X)
        self.emit(_STORE, to.high)
        self.emit(_LD_CELL, to.high)
        self.emit(_LDX_CELL, other.high)
        self.emit(_ADD_X)
        self.emit(_STORE, to.high)

    def xor(self, to: _Word, other: _Word) -> None:
        for cell, from_cell in ((to.low, other.low), (to.high, other.high)):
            self.emit(_LD_CELL, cell)
            self.emit(_LDX_CELL, from_cell)
            self.emit(_XOR_X)
            self.emit(_STORE, cell)

    def rotate_left(self, word: _Word, bits: int) -> None:
        self._shift_into(_SCRATCH, word.low, word.high, bits)
        self._shift_into(_SCRATCH_2, word.high, word.low, bits)
        for scratch, cell in ((_SCRATCH, word.low), (_SCRATCH_2, word.high)):
            self.emit(_LD_CELL, scratch)
            self.emit(_STORE, cell)

    def _shift_into(self, scratch: int, cell: int, neighbour: int, bits: int) -> None:
        self.emit(_LD_CELL, cell)
        self.emit(_SHIFT_LEFT, bits)
        self.emit(_STORE, scratch)
        self.emit(_LD_CELL, neighbour)
        self.emit(_SHIFT_RIGHT, 32 - bits)
        self.emit(_LDX_CELL, scratch)
        self.emit(_OR_X)
        self.emit(_STORE, scratch)

    def swap_bytes(self) -> None:
        """Packet words load as big-endian, SipHash reads little-endian ones."""
        self.emit(_STORE, _SCRATCH)
        self.emit(_SHIFT_RIGHT, 24)
        self.emit(_STORE, _SCRATCH_2)
        for mask, shift, left in ((0x00FF0000, 8, False), (0x0000FF00, 8, True), (0x000000FF, 24, True)):
            self.emit(_LD_CELL, _SCRATCH)
            self.emit(_AND, mask)
            self.emit(_SHIFT_LEFT if left else _SHIFT_RIGHT, shift)
            self.emit(_LDX_CELL, _SCRATCH_2)
            self.emit(_OR_X)
            self.emit(_STORE, _SCRATCH_2)
        self.emit(_LD_CELL, _SCRATCH_2)


def program(
    mask_keys: Mapping[int, bytes], workers: Mapping[int, int], accepting: Sequence[int], seed: int = 0
) -> bytes:
    """Return the program: SipHash keys by config id, slots by worker id, the worker ids that take new connections.

    *seed* keeps strangers from choosing their worker. Raises `BpfError` when it does not fit.
    """
    slots = [workers[worker_id] for worker_id in accepting] or sorted(set(workers.values())) or [0]
    code = _Assembler()
    code.emit(_LD_LENGTH)
    code.branch(_JUMP_GREATER_EQUAL, _MIN_LENGTH, yes=1)
    code.emit(_RETURN, slots[0])
    code.emit(_LD_BYTE, 0)
    code.branch(_JUMP_BITS, 0x80, "long", "short")
    code.label("short")
    code.emit(_LD_CONSTANT, 1)
    code.branch(_JUMP_BITS, 1, yes="decode")
    code.label("long")
    code.emit(_LD_BYTE, 5)
    code.branch(_JUMP_EQUAL, 20, yes=1)
    code.jump("new")
    code.emit(_LD_CONSTANT, 6)
    code.label("decode")
    _decode(code, mask_keys)
    for worker_id, slot in sorted(workers.items()):
        code.branch(_JUMP_EQUAL, worker_id, no=1)
        code.emit(_RETURN, slot)
    code.label("new")
    _spread(code, slots, seed)
    return code.bytes()


def _decode(code: _Assembler, mask_keys: Mapping[int, bytes]) -> None:
    """From the offset of the id in A to its worker id in A, or to "new"."""
    code.emit(_STORE, _CID_AT)
    code.emit(_TAX)
    code.emit(_LD_BYTE_AT_X, 0)
    for config_id, key in sorted(mask_keys.items()):
        code.branch(_JUMP_EQUAL, config_id << 5 | 19, yes=1)
        code.jump(f"not {config_id}")
        k0, k1 = struct.unpack("<QQ", key)
        constants = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
        for word, constant in zip((_V0, _V1, _V2, _V3), constants, strict=True):
            code.emit(_LD_CONSTANT, constant & 0xFFFFFFFF)
            code.emit(_STORE, word.low)
            code.emit(_LD_CONSTANT, constant >> 32)
            code.emit(_STORE, word.high)
        code.jump("hash")
        code.label(f"not {config_id}")
    code.jump("new")
    code.label("hash")
    for offset, cell in ((1, _M0.low), (5, _M0.high), (9, _M1.low), (13, _M1.high)):
        code.emit(_LDX_CELL, _CID_AT)
        code.emit(_LD_WORD_AT_X, offset)
        code.swap_bytes()
        code.emit(_STORE, cell)
    _siphash13(code)
    code.emit(_LDX_CELL, _CID_AT)
    code.emit(_LD_WORD_AT_X, 16)
    code.emit(_LDX_CELL, _SCRATCH)
    code.emit(_XOR_X)
    code.emit(_AND, 0xFFFFFF)
    code.branch(_JUMP_BITS, 0xFF, no=1)
    code.jump("new")
    code.emit(_SHIFT_RIGHT, 8)


def _siphash13(code: _Assembler) -> None:
    """The low half of the SipHash-1-3 of M0, M1 into the scratch cell."""
    v0, v1, v2, v3 = _V0, _V1, _V2, _V3

    def sip_round() -> None:
        nonlocal v0, v2
        code.add(v0, v1)
        code.rotate_left(v1, 13)
        code.xor(v1, v0)
        v0 = v0.swapped()
        code.add(v2, v3)
        code.rotate_left(v3, 16)
        code.xor(v3, v2)
        code.add(v0, v3)
        code.rotate_left(v3, 21)
        code.xor(v3, v0)
        code.add(v2, v1)
        code.rotate_left(v1, 17)
        code.xor(v1, v2)
        v2 = v2.swapped()

    def xor_constant(cell: int, constant: int) -> None:
        code.emit(_LD_CELL, cell)
        code.emit(_XOR, constant)
        code.emit(_STORE, cell)

    for message in (_M0, _M1):
        code.xor(v3, message)
        sip_round()
        code.xor(v0, message)
    xor_constant(v3.high, 16 << 24)
    sip_round()
    xor_constant(v0.high, 16 << 24)
    xor_constant(v2.low, 0xFF)
    for _ in range(3):
        sip_round()
    code.emit(_LD_CELL, v0.low)
    for word in (v1, v2, v3):
        code.emit(_LDX_CELL, word.low)
        code.emit(_XOR_X)
    code.emit(_STORE, _SCRATCH)


def _spread(code: _Assembler, slots: Sequence[int], seed: int) -> None:
    """By eight bytes that stay the same during a handshake: the client's own id (or the middle of what is no id)."""
    code.emit(_LD_WORD, 6)
    code.emit(_XOR, seed & 0xFFFFFFFF)
    code.emit(_MULTIPLY, 0x9E3779B1)
    _fold(code, 15)
    code.emit(_LDX_CELL, _SCRATCH)
    code.emit(_LD_WORD, 10)
    code.emit(_ADD_X)
    code.emit(_XOR, seed >> 32)
    code.emit(_MULTIPLY, 0x85EBCA77)
    _fold(code, 16)
    code.emit(_MODULO, len(slots))
    for index, slot in enumerate(slots[:-1]):
        code.branch(_JUMP_EQUAL, index, no=1)
        code.emit(_RETURN, slot)
    code.emit(_RETURN, slots[-1])


def _fold(code: _Assembler, shift: int) -> None:
    """A ^= A >> shift, also into the scratch cell."""
    code.emit(_STORE, _SCRATCH)
    code.emit(_SHIFT_RIGHT, shift)
    code.emit(_LDX_CELL, _SCRATCH)
    code.emit(_XOR_X)
    code.emit(_STORE, _SCRATCH)


def attach(member: socket.socket, code: bytes) -> None:
    """Put a program in charge of the reuseport group of *member*; the one before it is gone at the same moment."""
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    try:
        member.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filter_)
    except MemoryError:  # ENOMEM
        raise BpfError(
            f"cannot steer with classic BPF: {len(code) // 8} instructions are more than net.core.optmem_max allows"
        ) from None
