"""Measuring programs, for tests and benchmarks: runs on a frame, run times, and what the kernel knows of a program.

Each function is one system call (linux.py).
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

from bpf.linux import Command, call, object_info


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says about a loaded program. Instructions are counted, `jited_bytes` measured."""

    tag: str
    instructions: int
    jited_bytes: int
    verified_instructions: int
    run_time_ns: int
    run_count: int


def program_info(fd: int) -> ProgramInfo:
    """Return what the kernel knows about a program."""
    raw = object_info(fd)
    _, _, tag, jited, xlated = struct.unpack_from("=II8sII", raw)
    run_time_ns, run_count, _, verified = struct.unpack_from("=QQQI", raw, 192)
    return ProgramInfo(tag.hex(), xlated // 8, jited, verified, run_time_ns, run_count)


def run_on_frame(program_fd: int, frame: bytes, repeat: int = 1) -> tuple[int, int, bytes]:
    """Run an XDP program on a frame; return (action, ns per run, the frame afterwards)."""
    frame_in = ctypes.create_string_buffer(frame, len(frame))
    frame_out = ctypes.create_string_buffer(len(frame) + 256)
    attr = struct.pack(
        "=IIIIQQII",
        program_fd,
        0,
        len(frame),
        len(frame_out),
        ctypes.addressof(frame_in),
        ctypes.addressof(frame_out),
        repeat,
        0,
    )
    _, answer = call(Command.PROG_TEST_RUN, attr)
    _, action, _, out_bytes, _, _, _, duration_ns = struct.unpack_from("=IIIIQQII", answer)
    return action, duration_ns, frame_out.raw[:out_bytes]


def measure_run_time() -> int:
    """Have the kernel measure all programs while the returned descriptor is open (`ProgramInfo.run_time_ns`)."""
    return call(Command.ENABLE_STATS, struct.pack("=I", 0))[0]
