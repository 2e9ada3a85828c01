"""From the C text of a packet program to bytecode, by bcc or clang, in a short-lived child without rights.

The order: a file in the cache with the hash of the text; the same file shipped with the package (`bpf/prebuilt`, made
with `python -m bpf.compile --into DIRECTORY` where bcc or clang is at hand); bcc; clang. Nothing is loaded here.

What surprises:
  * bcc is only a compiler for us. It maps 100 MB of LLVM and never gives them back, changes the directory of the whole
    process while it works and writes its errors to stderr: so a child, which drops its rights before it compiles. It
    is a package of the distribution, not of our environment: imported by path, and nothing else of dist-packages.
  * bcc wants kernel headers. The eight small files of SHIM are all that its own helpers.h includes.
  * A cached file becomes kernel code: one that others could have written is not read.
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

HERE = Path(__file__).parent
PREBUILT = HERE / "prebuilt"
SOURCES = ("xdp.c", "reuseport.c")
_BCC = Path("/usr/lib/python3/dist-packages/bcc/__init__.py")
_NOBODY = 65534
_COMPILE_TIMEOUT_S = 120

SHIM = {
    "include/linux/kconfig.h": "#define CONFIG_BPF_SYSCALL 1\n#define CONFIG_64BIT 1\n",
    "include/linux/types.h": """
typedef unsigned char __u8, u8, uint8_t;         typedef signed char __s8, s8, int8_t;
typedef unsigned short __u16, u16, uint16_t;     typedef short __s16, s16, int16_t;
typedef unsigned int __u32, u32, uint32_t;       typedef int __s32, s32, int32_t;
typedef unsigned long long __u64, u64, uint64_t; typedef long long __s64, s64, int64_t;
typedef unsigned long size_t, uintptr_t;         typedef int pid_t;
typedef __u16 __le16, __be16, __sum16;           typedef __u32 __le32, __be32, __wsum;
typedef __u64 __le64, __be64;                    typedef __u64 __aligned_u64 __attribute__((aligned(8)));
typedef _Bool bool;
enum { false = 0, true = 1 };
#define NULL ((void *)0)
""",
    "include/linux/bpf_common.h": """
#define BPF_CLASS(code) ((code) & 0x07)
#define BPF_LD 0x00
#define BPF_LDX 0x01
#define BPF_ST 0x02
#define BPF_STX 0x03
#define BPF_ALU 0x04
#define BPF_JMP 0x05
#define BPF_RET 0x06
#define BPF_MISC 0x07
#define BPF_SIZE(code) ((code) & 0x18)
#define BPF_W 0x00
#define BPF_H 0x08
#define BPF_B 0x10
#define BPF_MODE(code) ((code) & 0xe0)
#define BPF_IMM 0x00
#define BPF_ABS 0x20
#define BPF_IND 0x40
#define BPF_MEM 0x60
#define BPF_LEN 0x80
#define BPF_MSH 0xa0
#define BPF_MAXINSNS 4096
""",
    "include/linux/version.h": """
#define KERNEL_VERSION(a,b,c) (((a) << 16) + ((b) << 8) + ((c) > 255 ? 255 : (c)))
#define LINUX_VERSION_CODE KERNEL_VERSION(6, 1, 0)
""",
    "include/linux/log2.h": "#define roundup_pow_of_two(n) ((n) <= 1 ? 1UL : 1UL << (64 - __builtin_clzl((n) - 1)))\n",
    "include/asm/page.h": "",
    "include/uapi/linux/bpf.h": "/* bcc includes its own copy before anything else */\n",
    "include/uapi/linux/if_packet.h": "",
}


def flatten(name: str) -> str:
    """Return the text of a program with our headers in it: the child can read no file of ours."""
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
    """Return the instructions of each program in a source file. Raises `BpfError` with the compiler's words."""
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
        raise BpfError(f"cannot compile {name}: no folder can be written to; TMPDIR names one") from None
    with folder as directory:
        root = Path(directory)
        for path, content in SHIM.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        # The child is somebody else, and velocity.service has UMask=0077.
        for made in (root, *root.rglob("*")):
            made.chmod(0o755 if made.is_dir() else 0o644)
        # Where the child, who is nobody, may leave clang's object.
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
        pass  # a cache that cannot be written costs half a second at the next start


# --- the child --------------------------------------------------------------------------------------------------------


def _drop_rights() -> None:
    """Become nobody, with no capability, no way to new ones, and bounded time and memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        except OSError:
            pass  # no CAP_SETUID, no such id in this user namespace: then root, with nothing of what makes root mighty
    libc.prctl(47, 4, 0, 0, 0)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))


def _import_bcc() -> Any:
    """Return the bcc module of the distribution, or None. Only this one module: not all of dist-packages."""
    spec = importlib.util.spec_from_file_location("bcc", _BCC, submodule_search_locations=[str(_BCC.parent)])
    if not _BCC.exists() or spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        print(f"bcc is there but not usable: {error}", file=sys.stderr)
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
    """Return the bytes of a section of a BPF object. There is nothing to relocate: see maps.h."""
    if elf[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", elf, 18)[0] != 247:
        raise BpfError("cannot use the object that clang made: not 64-bit little-endian BPF")
    table, count, names = struct.unpack_from("<Q", elf, 40)[0], *struct.unpack_from("<HH", elf, 60)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + 64 * index) for index in range(count)]

    def name(header: tuple[int, ...]) -> str:
        start = headers[names][4] + header[0]
        return elf[start : elf.index(b"\0", start)].decode()

    found = {name(header): elf[header[4] : header[4] + header[5]] for header in headers}
    if wanted not in found or f".rel{wanted}" in found:
        raise BpfError(f"cannot use the object that clang made: no section {wanted} without relocations")
    return found[wanted]


def _child(directory: Path) -> None:
    text = sys.stdin.read()
    names = re.findall(r"^PROGRAM\((\w+)\)", text, flags=re.MULTILINE)
    # Imported with the rights we came with: the interpreter's own files may be unreadable for nobody.
    bcc = None if os.environ.get("VELOCITY_BPF_COMPILER") == "clang" else _import_bcc()
    _drop_rights()
    # bcc talks to stdout too; the answer must be alone there.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        programs = _by_bcc(bcc, text, names, directory) if bcc else _by_clang(text, names, directory)
    except FileNotFoundError:
        sys.exit("no compiler: install python3-bpfcc, or clang")
    except Exception as error:  # bcc raises bare Exception; what matters is on stderr already
        sys.exit(str(error))
    json.dump({name: base64.b64encode(code).decode() for name, code in programs.items()}, answer)
    answer.flush()
    # LLVM's destructors take longer than the compilation and free what the kernel frees anyway.
    os._exit(0)


def main(arguments: list[str]) -> None:
    """`--child DIRECTORY` is the child; `--into DIRECTORY` compiles all programs for a package."""
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
