"""The programs load, from each compiler, within their limits; errors name their cause."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import BpfError, compile, kernel, loader, measure, pins
from bpf.linux import AttachType, ProgramType
from bpf.measure import ProgramInfo

#: Most instructions that the verifier may walk. Socket selection runs for every datagram, and must be small.
BOUNDS = {"choose_socket": 5_000, "shield": 100_000, "arrived": 100}


@pytest.fixture(scope="module")
def maps() -> Iterator[dict[str, int]]:
    specs = (*pins.specs(), pins.sockets_spec(), pins.cpus_spec())
    made = {spec.name: kernel.create_map(spec) for spec in specs}
    yield made
    for fd in made.values():
        os.close(fd)


@pytest.mark.root
@pytest.mark.parametrize("compiler", ["bcc", "clang"])
@pytest.mark.parametrize("name", loader.PROGRAMS)
def test_a_program_loads(
    name: str,
    compiler: str,
    maps: dict[str, int],
    tmp_path: Path,
    verified: dict[str, ProgramInfo],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VELOCITY_BPF_COMPILER", compiler)
    for frags in (False, True):
        if frags and name == "choose_socket":
            continue
        # A CPUMAP belongs to programs of one kind.
        cpus = kernel.create_map(pins.cpus_spec())
        program = loader.load(name, {**maps, "cpus": cpus}, tmp_path, frags=frags)
        info = measure.program_info(program)
        verified[f"{name} ({compiler})"] = info
        assert 0 < info.verified_instructions < BOUNDS[name]
        os.close(program)
        os.close(cpus)


@pytest.mark.root
def test_error_contains_the_verifier_log() -> None:
    """A program that reads the uninitialized register 3."""
    code = bytes.fromhex("bf30000000000000 9500000000000000")
    with pytest.raises(BpfError, match=r"(?s)^cannot load broken: Permission denied.*R3 !read_ok"):
        kernel.load_program("broken", code, ProgramType.XDP, AttachType.XDP)


@pytest.mark.parametrize("compiler", ["bcc", "clang"])
def test_error_contains_the_compiler_message(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELOCITY_BPF_COMPILER", compiler)
    with pytest.raises(BpfError, match=r"(?s)^cannot compile wrong.c: .*no_such_thing"):
        compile._compile("wrong.c", "PROGRAM(x)(void *ctx) { return no_such_thing; }\n")


@pytest.mark.root
@pytest.mark.parametrize("compiler", ["bcc", "clang"])
def test_compiler_works_under_umask_0077(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is another user; velocity.service has UMask=0077."""
    monkeypatch.setenv("VELOCITY_BPF_COMPILER", compiler)
    before = os.umask(0o077)
    try:
        assert set(compile._compile("reuseport.c", compile.flatten("reuseport.c"))) == {"choose_socket"}
    finally:
        os.umask(before)


@pytest.mark.parametrize("compiler", ["bcc", "clang"])
def test_the_compiler_has_no_rights(compiler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A program text cannot include a file that only root may read."""
    if os.geteuid():
        pytest.skip("needs root: there are no rights to drop")
    monkeypatch.setenv("VELOCITY_BPF_COMPILER", compiler)
    secret = tmp_path / "secret.h"
    secret.write_text("#define SECRET 1\n")
    secret.chmod(0o600)
    for parent in secret.parents[:-1]:
        if parent.stat().st_mode & stat.S_IXOTH == 0:
            monkeypatch.setattr(compile, "_COMPILE_TIMEOUT_S", 60)  # pytest's own folders are closed too
            break
    with pytest.raises(BpfError, match=r"(?s)secret\.h.*[Pp]ermission denied|secret\.h' file not found"):
        compile._compile("spy.c", f'#include "{secret}"\nint PROGRAM(void *ctx) {{ return SECRET; }}\n')


def test_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is compiled once; a changed text has another file; a file that others can write is not read."""
    calls = []
    monkeypatch.setattr(compile, "_compile", lambda name, text: calls.append(name) or {"x": text.encode()})
    first = compile.bytecode("xdp.c", tmp_path)
    assert compile.bytecode("xdp.c", tmp_path) == first
    assert calls == ["xdp.c"]
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o666)
    compile.bytecode("xdp.c", tmp_path)
    assert calls == ["xdp.c"] * 2
    monkeypatch.setattr(compile, "flatten", lambda name: "another text")
    compile.bytecode("xdp.c", tmp_path)
    assert calls == ["xdp.c"] * 3
    file.write_text("not json")
    monkeypatch.undo()
    assert compile._read(file) is None


def test_compiles_when_the_cache_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "_compile", lambda name, text: {"x": b""})
    (tmp_path / "file").write_text("")
    assert compile.bytecode("xdp.c", tmp_path / "file" / "cache") == {"x": b""}


def test_only_placeholders_are_replaced() -> None:
    from bpf import abi

    def ld_imm64(source: int, value: int) -> bytes:
        return bytes([0x18, source << 4 | 1, 0, 0]) + value.to_bytes(4, "little") + bytes(8)

    named = {spec.name: 100 + index for index, spec in enumerate(abi.MAPS)}
    code = ld_imm64(1, 0x5645002) + ld_imm64(0, 0x5645002) + bytes(8)
    assert loader.with_maps(code, named) == ld_imm64(1, 102) + ld_imm64(0, 0x5645002) + bytes(8)
    with pytest.raises(BpfError, match=r"^cannot use this bytecode"):
        loader.with_maps(ld_imm64(1, 0x5645099), named)
