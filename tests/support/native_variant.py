"""A pytest plugin: run the tests with another build of the native engine (sanitizers).

    VELOCITY_TEST_NATIVE=/tmp/asan LD_PRELOAD=.../libasan.so pytest -p tests.support.native_variant ...

The variant replaces the real module before it is imported.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
from pathlib import Path

NAME = "velocity_edge.quic.native._native"


def install(folder: Path) -> None:
    """Load `_native` from *folder* under its real name."""
    path = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    spec = importlib.util.spec_from_file_location(NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    loader.exec_module(module)


if folder := os.environ.get("VELOCITY_TEST_NATIVE"):
    install(Path(folder))
