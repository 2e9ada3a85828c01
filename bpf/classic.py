"""Steering without capabilities (tier A): generates a classic BPF program that chooses a socket by connection ID.

SO_ATTACH_REUSEPORT_CBPF needs no capability. The program returns an index into the reuseport group: the sockets in the
order in which they were bound. So the sockets of a listener are bound in the order of their slots and stay open, and
the index is the slot. There are no maps: the known workers and the accepting ones are constants in the program, and
every change attaches a new program atomically. Offset 0 is the first byte of the QUIC packet.

This tier cannot drop (a packet whose ID does not decode goes to an accepting worker, which drops it), count, keep a
handshake with its worker when the accepting set changes, or survive a closed socket: the last socket of the group then
takes the index of the closed one.

SipHash-1-3 on 32-bit cells (assembler.py) makes the program about 1000 instructions long.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Mapping, Sequence

from bpf import BpfError
from bpf.assembler import (
    ADD_X,
    AND,
    JUMP_BITS,
    JUMP_EQUAL,
    JUMP_GREATER_EQUAL,
    LD_BYTE,
    LD_BYTE_AT_X,
    LD_CELL,
    LD_CONSTANT,
    LD_LENGTH,
    LD_WORD,
    LD_WORD_AT_X,
    LDX_CELL,
    MODULO,
    MULTIPLY,
    RETURN,
    SCRATCH,
    SHIFT_RIGHT,
    STORE,
    TAX,
    XOR,
    XOR_X,
    Assembler,
    Word,
)
from bpf.linux import SO_ATTACH_REUSEPORT_CBPF

#: The length of the shortest QUIC packet with a connection ID of the node. A load beyond the end of a packet would end
#: the program with 0, which is socket 0.
_MIN_LENGTH = 26

# The cells; 13 and 14 are for intermediate values.
V0, V1, V2, V3 = (Word(i, i + 1) for i in (0, 2, 4, 6))
M0, M1 = Word(8, 9), Word(10, 11)
CID_AT = 12


def program(
    mask_keys: Mapping[int, bytes], workers: Mapping[int, int], accepting: Sequence[int], seed: int = 0
) -> bytes:
    """Return the program: SipHash keys by config id, slots by worker id, the worker ids that accept new connections.

    *seed* keeps clients from choosing their worker. Raises `BpfError` when the program is too long.
    """
    slots = [workers[worker_id] for worker_id in accepting] or sorted(set(workers.values())) or [0]
    code = Assembler()
    code.emit(LD_LENGTH)
    code.branch(JUMP_GREATER_EQUAL, _MIN_LENGTH, yes=1)
    code.emit(RETURN, slots[0])
    code.emit(LD_BYTE, 0)
    code.branch(JUMP_BITS, 0x80, "long", "short")
    code.label("short")
    code.emit(LD_CONSTANT, 1)
    code.branch(JUMP_BITS, 1, yes="decode")
    code.label("long")
    code.emit(LD_BYTE, 5)
    code.branch(JUMP_EQUAL, 20, yes=1)
    code.jump("new")
    code.emit(LD_CONSTANT, 6)
    code.label("decode")
    _decode(code, mask_keys)
    for worker_id, slot in sorted(workers.items()):
        code.branch(JUMP_EQUAL, worker_id, no=1)
        code.emit(RETURN, slot)
    code.label("new")
    _spread(code, slots, seed)
    return code.bytes()


def _decode(code: Assembler, mask_keys: Mapping[int, bytes]) -> None:
    """Replace the offset of the connection ID in A by its worker id, or jump to "new"."""
    code.emit(STORE, CID_AT)
    code.emit(TAX)
    code.emit(LD_BYTE_AT_X, 0)
    for config_id, key in sorted(mask_keys.items()):
        code.branch(JUMP_EQUAL, config_id << 5 | 19, yes=1)
        code.jump(f"not {config_id}")
        k0, k1 = struct.unpack("<QQ", key)
        constants = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
        for word, constant in zip((V0, V1, V2, V3), constants, strict=True):
            code.emit(LD_CONSTANT, constant & 0xFFFFFFFF)
            code.emit(STORE, word.low)
            code.emit(LD_CONSTANT, constant >> 32)
            code.emit(STORE, word.high)
        code.jump("hash")
        code.label(f"not {config_id}")
    code.jump("new")
    code.label("hash")
    for offset, cell in ((1, M0.low), (5, M0.high), (9, M1.low), (13, M1.high)):
        code.emit(LDX_CELL, CID_AT)
        code.emit(LD_WORD_AT_X, offset)
        code.swap_bytes()
        code.emit(STORE, cell)
    _siphash13(code)
    code.emit(LDX_CELL, CID_AT)
    code.emit(LD_WORD_AT_X, 16)
    code.emit(LDX_CELL, SCRATCH)
    code.emit(XOR_X)
    code.emit(AND, 0xFFFFFF)
    code.branch(JUMP_BITS, 0xFF, no=1)
    code.jump("new")
    code.emit(SHIFT_RIGHT, 8)


def _siphash13(code: Assembler) -> None:
    """Store the low half of the SipHash-1-3 of M0 and M1 in the scratch cell."""
    v0, v1, v2, v3 = V0, V1, V2, V3

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
        code.emit(LD_CELL, cell)
        code.emit(XOR, constant)
        code.emit(STORE, cell)

    for message in (M0, M1):
        code.xor(v3, message)
        sip_round()
        code.xor(v0, message)
    xor_constant(v3.high, 16 << 24)
    sip_round()
    xor_constant(v0.high, 16 << 24)
    xor_constant(v2.low, 0xFF)
    for _ in range(3):
        sip_round()
    code.emit(LD_CELL, v0.low)
    for word in (v1, v2, v3):
        code.emit(LDX_CELL, word.low)
        code.emit(XOR_X)
    code.emit(STORE, SCRATCH)


def _spread(code: Assembler, slots: Sequence[int], seed: int) -> None:
    """Choose by eight bytes that stay the same during a handshake: those of the client's destination connection ID."""
    code.emit(LD_WORD, 6)
    code.emit(XOR, seed & 0xFFFFFFFF)
    code.emit(MULTIPLY, 0x9E3779B1)
    _fold(code, 15)
    code.emit(LDX_CELL, SCRATCH)
    code.emit(LD_WORD, 10)
    code.emit(ADD_X)
    code.emit(XOR, seed >> 32)
    code.emit(MULTIPLY, 0x85EBCA77)
    _fold(code, 16)
    code.emit(MODULO, len(slots))
    for index, slot in enumerate(slots[:-1]):
        code.branch(JUMP_EQUAL, index, no=1)
        code.emit(RETURN, slot)
    code.emit(RETURN, slots[-1])


def _fold(code: Assembler, shift: int) -> None:
    """A ^= A >> shift; the scratch cell gets the result, too."""
    code.emit(STORE, SCRATCH)
    code.emit(SHIFT_RIGHT, shift)
    code.emit(LDX_CELL, SCRATCH)
    code.emit(XOR_X)
    code.emit(STORE, SCRATCH)


def attach(member: socket.socket, code: bytes) -> None:
    """Attach a program to the reuseport group of *member*, in place of the program before it, atomically."""
    buffer = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("=HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    try:
        member.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, filter_)
    except MemoryError:  # ENOMEM
        raise BpfError(
            f"cannot steer with classic BPF: {len(code) // 8} instructions are more than net.core.optmem_max allows"
        ) from None
