"""Every module can be imported, in any order, and an import changes nothing in the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("velocity_edge", "bpf", "supervisor", "workers")
#: Programs (`__main__`), too: their actions are behind `if __name__`.
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
)
#: Imports one module after the other; names the first one that fails, or whose import has a side effect.
_PROGRAM = """
import importlib, logging, os, signal, sys, threading
handlers, directory = signal.getsignal(signal.SIGTERM), os.getcwd()
failed = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed.append(f"{name}: {type(error).__name__}: {error}")
    if threading.active_count() > 1:
        failed.append(f"{name}: its import starts a thread")
    if logging.getLogger().handlers:
        failed.append(f"{name}: its import sets up logging")
    if signal.getsignal(signal.SIGTERM) is not handlers or os.getcwd() != directory:
        failed.append(f"{name}: its import changes the process")
    if failed:
        break
print("\\n".join(failed))
"""


@pytest.mark.parametrize("backwards", [False, True])
def test_every_module_can_be_imported(backwards: bool) -> None:
    assert len(MODULES) > 150
    assert {
        "workers.process.worker",
        "supervisor.succession.adoption",
        "velocity_edge.cli.status",
        "bpf.loader",
    } <= set(MODULES)
    names = MODULES[::-1] if backwards else MODULES
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *names], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


def test_every_module_is_imported_by_this_process_too() -> None:
    """So that a run of only the fast tests, also with mutants or coverage, has executed each of them."""
    for name in MODULES:
        __import__(name)
        assert name in sys.modules
