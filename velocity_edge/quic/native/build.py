"""Compiles the native engine: `python -m velocity_edge.quic.native.build [--asan] [--into DIR]`.

Needs a C compiler, pkg-config and the headers of libngtcp2 >= 1.11, libnghttp3 >= 1.8, libnghttp2, libssl and this
Python (tools/native-deps installs them), and llhttp as a library or as sources (tools/llhttp). The result is
`_native.<suffix>.so` in this package. It is replaced atomically, so that a running node keeps the file it has mapped.
`--asan` builds a variant for tests; `--into` puts it elsewhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from velocity_edge.errors import Unavailable

HERE = Path(__file__).parent
LIBRARIES = {
    "libngtcp2": "1.11.0",
    "libnghttp3": "1.8.0",
    "libcrypto": "3.0.0",
    "libssl": "3.0.0",
    "libnghttp2": "1.43.0",
}
#: llhttp: a library where the distribution has it (Debian 13), or its three C files (tools/llhttp).
LLHTTP = ("libllhttp", "9.2.0")
LLHTTP_SOURCES = HERE.parents[2] / ".build" / "llhttp"
WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wstrict-prototypes", "-Wno-missing-field-initializers", "-Werror"]
HARDENING = ["-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now"]
OPTIMISED = ["-O2", "-g", *HARDENING]
CHECKED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def build(into: Path = HERE, *, asan: bool = False) -> Path:
    """Compile into *into* and return the file. Raises `Unavailable`, which says what is missing."""
    if sys.byteorder != "little":
        raise Unavailable(
            "cannot build the native engine: this machine is big-endian, and its SipHash supports little-endian only"
        )
    include = Path(sysconfig.get_paths()["include"])
    if not (include / "Python.h").is_file():
        raise Unavailable(f"cannot build the native engine: no Python.h in {include} (python3-dev)")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise Unavailable("cannot build the native engine: no C compiler (gcc)")
    target = into / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    # All sources in one command with LTO: calls between files can be inlined.
    command = [compiler, "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-flto=auto", *WARNINGS]
    command += CHECKED if asan else OPTIMISED
    libraries, sources, includes = llhttp()
    command += [f"-I{include}", *includes, *_pkg_config("--cflags", libraries)]
    command += [str(source) for source in sorted(HERE.glob("*.c"))]
    with tempfile.NamedTemporaryFile(dir=into, suffix=".so", delete=False) as partial:
        path = Path(partial.name)
    objects = tempfile.TemporaryDirectory(prefix="velocity-llhttp-")
    try:
        for source in sources:  # one by one, because our warnings are not for the code of others
            command.append(f"{objects.name}/{source.stem}.o")
            one = [compiler, "-std=gnu11", "-fPIC", "-fvisibility=hidden", "-w", *(CHECKED if asan else OPTIMISED)]
            one += [*includes, "-c", str(source), "-o", command[-1]]
            if subprocess.run([word for word in one if not word.startswith("-Wl,")], check=False).returncode != 0:
                raise Unavailable(f"cannot build the native engine: {Path(compiler).name} failed for {source}")
        done = subprocess.run([*command, "-o", str(path), *_pkg_config("--libs", libraries)], check=False, text=True)
        if done.returncode != 0:
            raise Unavailable(f"cannot build the native engine: {Path(compiler).name} failed, see above")
        path.chmod(0o755)
        path.rename(target)
    finally:
        objects.cleanup()
        path.unlink(missing_ok=True)
    return target


def llhttp() -> tuple[dict[str, str], list[Path], list[str]]:
    """How llhttp is had: what pkg-config finds, or sources and the options for them."""
    name, version = LLHTTP
    if (LLHTTP_SOURCES / "include" / "llhttp.h").is_file():
        return {}, sorted((LLHTTP_SOURCES / "src").glob("*.c")), ["-isystem", str(LLHTTP_SOURCES / "include")]
    if shutil.which("pkg-config") is not None:
        found = subprocess.run(["pkg-config", f"--atleast-version={version}", name], check=False)
        if found.returncode == 0:
            return {name: version}, [], []
    raise Unavailable(
        f"cannot build the native engine: there is no {name} >= {version}, and no folder {LLHTTP_SOURCES} "
        "(tools/llhttp gets the sources)"
    )


def _pkg_config(what: str, more: dict[str, str]) -> list[str]:
    if shutil.which("pkg-config") is None:
        raise Unavailable("cannot build the native engine: no pkg-config")
    wanted = [f"{name} >= {version}" for name, version in (LIBRARIES | more).items()]
    found = subprocess.run(["pkg-config", what, "--print-errors", *wanted], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        reason = " ".join(found.stderr.split())
        raise Unavailable(f"cannot build the native engine: {reason} (tools/native-deps installs what Debian has)")
    return found.stdout.split()


def main() -> int:
    """Build, print where the result is, and return the exit code."""
    parser = argparse.ArgumentParser(description="Compile the native engine.")
    parser.add_argument("--asan", action="store_true", help="with AddressSanitizer and UBSan, for the tests")
    parser.add_argument("--into", type=Path, default=HERE, help="folder of the result (default: this package)")
    options = parser.parse_args()
    try:
        print(build(options.into, asan=options.asan))
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
