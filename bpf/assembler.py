"""An assembler for classic BPF: instructions with labels, and 64-bit arithmetic on the 16 cells of 32 bits.

Classic BPF has one 32-bit accumulator (A), an index register (X) and 16 cells. A 64-bit word is a pair of cells;
rotating it by 32 swaps their names and needs no instruction. The program is in classic.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from bpf import BpfError

MAX_INSTRUCTIONS = 4096

# <linux/bpf_common.h> and <linux/filter.h>: class, size and mode in one number each.
LD_BYTE, LD_WORD, LD_LENGTH, LD_CONSTANT, LD_CELL = 0x30, 0x20, 0x80, 0x00, 0x60
LD_BYTE_AT_X, LD_WORD_AT_X = 0x50, 0x40
LDX_CONSTANT, LDX_CELL = 0x01, 0x61
STORE = 0x02
ADD_X, MULTIPLY, MODULO, OR_X, AND, SHIFT_LEFT, SHIFT_RIGHT = 0x0C, 0x24, 0x94, 0x4C, 0x54, 0x64, 0x74
XOR, XOR_X = 0xA4, 0xAC
JUMP, JUMP_EQUAL, JUMP_GREATER_EQUAL, JUMP_GREATER_EQUAL_X, JUMP_BITS = 0x05, 0x15, 0x35, 0x3D, 0x45
RETURN, TAX, TXA = 0x06, 0x07, 0x87


@dataclass(frozen=True, slots=True)
class Word:
    """A 64-bit word in two cells."""

    low: int
    high: int

    def swapped(self) -> Word:
        """Return the word rotated by 32."""
        return Word(self.high, self.low)


#: Cells for intermediate values.
SCRATCH, SCRATCH_2 = 13, 14


class Assembler:
    """Instructions with labels. Conditional jumps reach 255 instructions, `jump` has no limit."""

    def __init__(self) -> None:
        self._code: list[tuple[int, int, str | int, str | int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}

    def emit(self, operation: int, k: int = 0) -> None:
        """Append an instruction."""
        self._code.append((operation, k & 0xFFFFFFFF, 0, 0))

    def branch(self, operation: int, k: int, yes: str | int = 0, no: str | int = 0) -> None:
        """Jump to a label, or over a number of instructions."""
        self._code.append((operation, k & 0xFFFFFFFF, yes, no))

    def jump(self, label: str) -> None:
        """Jump to a label at any distance."""
        self._jumps[len(self._code)] = label
        self.emit(JUMP)

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._code)

    def bytes(self) -> bytes:
        """Return the program as struct sock_filter[]. Raises `BpfError` when it is too long."""
        if len(self._code) > MAX_INSTRUCTIONS:
            raise BpfError(
                f"cannot steer with classic BPF: {len(self._code)} instructions of at most {MAX_INSTRUCTIONS}; "
                "run fewer workers, or use tier B"
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

    def add(self, to: Word, other: Word) -> None:
        """Compute to += other."""
        self.emit(LD_CELL, to.low)
        self.emit(LDX_CELL, other.low)
        self.emit(ADD_X)
        self.emit(STORE, to.low)
        self.branch(JUMP_GREATER_EQUAL_X, 0, yes=4)  # a sum that is not less than a summand has no carry
        self.emit(LD_CELL, to.high)
        self.emit(LDX_CONSTANT, 1)
        self.emit(ADD_X)
        self.emit(STORE, to.high)
        self.emit(LD_CELL, to.high)
        self.emit(LDX_CELL, other.high)
        self.emit(ADD_X)
        self.emit(STORE, to.high)

    def xor(self, to: Word, other: Word) -> None:
        """Compute to ^= other."""
        for cell, from_cell in ((to.low, other.low), (to.high, other.high)):
            self.emit(LD_CELL, cell)
            self.emit(LDX_CELL, from_cell)
            self.emit(XOR_X)
            self.emit(STORE, cell)

    def rotate_left(self, word: Word, bits: int) -> None:
        """Rotate a word left by fewer than 32 bits."""
        self._shift_into(SCRATCH, word.low, word.high, bits)
        self._shift_into(SCRATCH_2, word.high, word.low, bits)
        for scratch, cell in ((SCRATCH, word.low), (SCRATCH_2, word.high)):
            self.emit(LD_CELL, scratch)
            self.emit(STORE, cell)

    def _shift_into(self, scratch: int, cell: int, neighbour: int, bits: int) -> None:
        self.emit(LD_CELL, cell)
        self.emit(SHIFT_LEFT, bits)
        self.emit(STORE, scratch)
        self.emit(LD_CELL, neighbour)
        self.emit(SHIFT_RIGHT, 32 - bits)
        self.emit(LDX_CELL, scratch)
        self.emit(OR_X)
        self.emit(STORE, scratch)

    def swap_bytes(self) -> None:
        """Reverse the bytes of A: packet words are loaded as big-endian, SipHash reads little-endian words."""
        self.emit(STORE, SCRATCH)
        self.emit(SHIFT_RIGHT, 24)
        self.emit(STORE, SCRATCH_2)
        for mask, shift, left in ((0x00FF0000, 8, False), (0x0000FF00, 8, True), (0x000000FF, 24, True)):
            self.emit(LD_CELL, SCRATCH)
            self.emit(AND, mask)
            self.emit(SHIFT_LEFT if left else SHIFT_RIGHT, shift)
            self.emit(LDX_CELL, SCRATCH_2)
            self.emit(OR_X)
            self.emit(STORE, SCRATCH_2)
        self.emit(LD_CELL, SCRATCH_2)
