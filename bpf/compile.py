"""Compiles the C text of a packet program to bytecode, with bcc or clang, in a short-lived child without privileges.

Sources of bytecode, in order: a file in the cache named by the hash of the text; the same file shipped with the package
(`bpf/prebuilt`, made with `python -m bpf.compile --into DIRECTORY` where bcc or clang is installed); bcc; clang.
Nothing is loaded here.

  * bcc is used only as a compiler. It maps 100 MB of LLVM and never frees them, changes the working directory of the
    whole process while it compiles, and writes its errors to stderr. So it runs in a child, which drops its privileges
    before it compiles. bcc is a package of the distribution: it is imported by path, without the rest of dist-packages.
  * bcc wants kernel headers. The eight small files of shim.py are all that its helpers.h includes.
  * A cached file becomes kernel code: a file that other users could have written is not read.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import importlib.util
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bpf import BpfError
from bpf.shim import SHIM

HERE = Path(__file__).parent
PREBUILT = HERE / "prebuilt"
SOURCES = ("xdp.c", "reuseport.c")
_BCC = Path("/usr/lib/python3/dist-packages/bcc/__init__.py")
_NOBODY = 65534
_COMPILE_TIMEOUT_S = 120


def flatten(name: str) -> str:
    """Return the text of a program with its headers included: the child cannot read the files of the package."""
    seen: set[str] = set()

    def included(match: re.Match[str]) -> str:
        header = match[1]
        if header in seen:
            return ""
        seen.add(header)
        return expand((HERE / header).read_text())

    def expand(text: str) -> str:
        return re.sub(r'^#include "([\w.]+)"$', included, text, flags=re.MULTILINE)

    return expand((HERE / name).read_text())


def bytecode(name: str, cache_dir: Path) -> dict[str, bytes]:
    """Return the instructions of each program in a source file. Raises `BpfError` with the compiler's message."""
    text = flatten(name)
    file = f"{Path(name).stem}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    for directory in (cache_dir, PREBUILT):
        if (cached := _read(directory / file)) is not None:
            return cached
    programs = _compile(name, text)
    _write(cache_dir / file, programs)
    return programs


def _compile(name: str, text: str) -> dict[str, bytes]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="velocity-bpf-")
    except OSError:
        raise BpfError(f"cannot compile {name}: no writable temporary directory; set TMPDIR to one") from None
    with folder as directory:
        root = Path(directory)
        for path, content in SHIM.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        # The child runs as another user, and velocity.service has UMask=0077.
        for made in (root, *root.rglob("*")):
            made.chmod(0o755 if made.is_dir() else 0o644)
        # The child (user nobody) writes clang's object file here.
        (root / "out").mkdir()
        (root / "out").chmod(0o777)
        command = [sys.executable, "-I", "-m", "bpf.compile", "--child", directory]
        try:
            child = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise BpfError(f"cannot compile {name}: the compiler did not finish in {_COMPILE_TIMEOUT_S} s") from None
    if child.returncode:
        raise BpfError(f"cannot compile {name}: {child.stderr.strip()[-2000:] or f'exit {child.returncode}'}")
    return {function: base64.b64decode(code) for function, code in json.loads(child.stdout).items()}


def _read(path: Path) -> dict[str, bytes] | None:
    try:
        status = path.stat()
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            return None
        return {name: base64.b64decode(code) for name, code in json.loads(path.read_text()).items()}
    except (OSError, ValueError):
        return None


def _write(path: Path, programs: dict[str, bytes]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({name: base64.b64encode(code).decode() for name, code in programs.items()}, file)
        Path(file.name).replace(path)
    except OSError:
        pass  # without a cache the next start takes half a second longer


# --- the child --------------------------------------------------------------------------------------------------------


def _drop_rights() -> None:
    """Become user nobody without capabilities, with no way to gain any, and with bounded CPU time and memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        except OSError:
            pass  # no CAP_SETUID, or no such id in this user namespace: root without capabilities
    libc.prctl(47, 4, 0, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


def _import_bcc() -> Any:
    """Return the bcc module of the distribution, or None. Only this module is imported, not all of dist-packages."""
    spec = importlib.util.spec_from_file_location("bcc", _BCC, submodule_search_locations=[str(_BCC.parent)])
    if not _BCC.exists() or spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        print(f"bcc is installed but cannot be used: {error}", file=sys.stderr)
        return None
    return module


def _by_bcc(bcc: Any, text: str, names: list[str], directory: Path) -> dict[str, bytes]:
    os.environ["BCC_KERNEL_SOURCE"] = str(directory)
    module = bcc.BPF(text=text, cflags=["-DVELOCITY_BPF", "-Wno-everything"])
    return {name: module.dump_func(name.encode()) for name in names}


def _by_clang(text: str, names: list[str], directory: Path) -> dict[str, bytes]:
    output = directory / "out" / "program.o"
    command = ["clang", "-target", "bpf", "-O2", "-DVELOCITY_BPF", "-Wall", "-c", "-xc", "-", "-o", str(output)]
    subprocess.run(command, input=text.encode(), check=True)
    elf = output.read_bytes()
    output.unlink()
    return {name: section(elf, f"program/{name}") for name in names}


def section(elf: bytes, wanted: str) -> bytes:
    """Return the bytes of a section of a BPF object. The programs need no relocation: see maps.h."""
    if elf[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", elf, 18)[0] != 247:
        raise BpfError("cannot use the object file of clang: not 64-bit little-endian BPF")
    table, count, names = struct.unpack_from("<Q", elf, 40)[0], *struct.unpack_from("<HH", elf, 60)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + 64 * index) for index in range(count)]

    def name(header: tuple[int, ...]) -> str:
        start = headers[names][4] + header[0]
        return elf[start : elf.index(b"\0", start)].decode()

    found = {name(header): elf[header[4] : header[4] + header[5]] for header in headers}
    if wanted not in found or f".rel{wanted}" in found:
        raise BpfError(f"cannot use the object file of clang: no section {wanted} without relocations")
    return found[wanted]


def _child(directory: Path) -> None:
    text = sys.stdin.read()
    names = re.findall(r"^PROGRAM\((\w+)\)", text, flags=re.MULTILINE)
    # Imported before privileges are dropped: the files of the interpreter may be unreadable for nobody.
    bcc = None if os.environ.get("VELOCITY_BPF_COMPILER") == "clang" else _import_bcc()
    _drop_rights()
    # bcc writes to stdout, too, where only the answer may be.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        programs = _by_bcc(bcc, text, names, directory) if bcc else _by_clang(text, names, directory)
    except FileNotFoundError:
        sys.exit("no compiler: install python3-bpfcc, or clang")
    except Exception as error:  # bcc raises bare Exception; the reason is on stderr already
        sys.exit(str(error))
    json.dump({name: base64.b64encode(code).decode() for name, code in programs.items()}, answer)
    answer.flush()
    # Without LLVM's destructors, which take longer than the compilation: the kernel frees the memory anyway.
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Run the child (`--child DIRECTORY`), or compile all programs for a package (`--into DIRECTORY`)."""
    match arguments:
        case ["--child", directory]:
            _child(Path(directory))
        case ["--into", directory]:
            for name in SOURCES:
                bytecode(name, Path(directory))
        case _:
            sys.exit("usage: python -m bpf.compile --into DIRECTORY")


if __name__ == "__main__":
    main(sys.argv[1:])
