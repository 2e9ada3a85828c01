"""The extension compiles without a warning, and sanitizers and Valgrind find no error in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from velocity_edge.errors import Unavailable
from velocity_edge.quic.native import build

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

REPOSITORY = Path(__file__).parents[2]


def test_error_names_a_missing_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(build.LIBRARIES, "libngtcp2", "99.0")
    with pytest.raises(Unavailable, match=r"cannot build the native engine: .*libngtcp2 >= 99\.0"):
        build.build(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module", name="checked")
def _checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native engine with sanitizers."""
    directory = tmp_path_factory.mktemp("checked")
    build.build(directory, asan=True)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("tests", [("tests/native",), ("tests/conformance", "tests/attack")], ids=["native", "others"])
def test_native_tests_pass_with_sanitizers(checked: Path, tests: tuple[str, ...]) -> None:
    """All tests of the native engine, with AddressSanitizer, UBSan and malloc for Python objects."""
    libraries = [_library(name) for name in ("libasan.so", "libubsan.so")]
    environment = {
        **os.environ,
        "VELOCITY_TEST_NATIVE": str(checked),
        "LD_PRELOAD": " ".join(libraries),
        # Python itself keeps memory until the end; our leaks are found by counts (test_engine.py, tests/attack).
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
        # A run inside a run: a process that starts meanwhile may belong to the outer one.
        "VELOCITY_ALONE": "",
    }
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                "-p",
                "tests.support.native_variant",
            ),
            *(
                "-k",
                "native and not grown and not test_build and not test_layers and not test_sockets",
                "-m",
                "not slow",
            ),
            *tests,
        ],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]


SERVE = """
    from tests.support.engine_driver import World
    w = World("native", loss=0.05)
    client = w.ready()
    for path in ("/bytes/1000", "/file/300000", "/stream/300000", "/nothing"):
        assert client.fetch(path).status in (200, 404)
    assert client.fetch("/echo", method="POST", body=bytes(50_000)).status == 200
    hanging = client.get("/hang")
    w.connect(alpn="nonsense")
    w.run(seconds=1)
    client.close()
    w.run(seconds=1)
    w.close()
"""


@pytest.mark.slow
def test_valgrind_finds_no_invalid_access() -> None:
    """Valgrind checks the libraries too. Uninitialised values are not checked: it does not see what RDRAND writes."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("no valgrind")
    done = subprocess.run(
        [valgrind, "-q", "--error-exitcode=9", "--undef-value-errors=no", sys.executable, "-c", textwrap.dedent(SERVE)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONMALLOC": "malloc", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]


def _library(name: str) -> str:
    compiler = shutil.which("cc")
    found = (
        compiler
        and subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    if not found or not Path(found).is_absolute():
        pytest.skip(f"this compiler has no {name}")
    return str(Path(found).resolve())
