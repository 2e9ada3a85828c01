"""The installation: Python, cores, the worker's user, our package names, engines, liboqs, directories."""

from __future__ import annotations

import ctypes.util
import importlib
import importlib.metadata
import os
import platform
import pwd
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from velocity_edge import paths
from velocity_edge.machine.findings import Finding, Level

#: Our four top-level packages have plain names; another distribution could bring one of the same name.
PACKAGES: Final = ("velocity_edge", "supervisor", "workers", "bpf")


def host() -> Iterator[Finding]:
    """Look at what every tier needs."""
    yield Finding("Python", Level.FINE, f"{platform.python_version()} in {sys.prefix}")
    cores = len(os.sched_getaffinity(0))
    yield Finding("cores", Level.FINE, f"{cores}: that many workers by default")
    yield _user()
    yield owners(importlib.metadata.packages_distributions())
    yield from _engines()
    yield _liboqs()
    yield from _directories()


def _user() -> Finding:
    if os.geteuid() != 0:
        return Finding("worker user", Level.NOTE, "not root: workers run as the same user as the supervisor")
    try:
        pwd.getpwnam("velocity")
    except KeyError:
        return Finding(
            "worker user",
            Level.NOTE,
            "no user velocity: workers run as nobody",
            "useradd --system --home /var/lib/velocity velocity",
        )
    return Finding("worker user", Level.FINE, "velocity")


def owners(distributions: Mapping[str, Iterable[str]]) -> Finding:
    """Say whether anybody else has installed a package under one of our names."""
    foreign = {
        package: sorted(set(distributions.get(package, ())) - {"velocity-edge"})
        for package in PACKAGES
        if set(distributions.get(package, ())) - {"velocity-edge"}
    }
    if foreign:
        who = "; ".join(f"{package} also by {', '.join(names)}" for package, names in foreign.items())
        return Finding("package names", Level.FATAL, who, "give velocity-edge an environment of its own (make build)")
    return Finding("package names", Level.FINE, "nobody else uses " + ", ".join(PACKAGES))


def _engines() -> Iterator[Finding]:
    from velocity_edge.quic.open_engine import native_missing

    missing = native_missing()
    if missing:
        remedy = "make build, as root where libraries are missing; meanwhile the portable engine serves"
        yield Finding("engine native", Level.LACKING, f"not here: {missing}", remedy)
    else:
        yield Finding("engine native", Level.FINE, "ngtcp2 and nghttp3")
    try:
        importlib.import_module("velocity_edge.quic.portable")
    except ImportError as error:
        yield Finding("engine portable", Level.FATAL, f"not here: {error}", "make build")
    else:
        yield Finding("engine portable", Level.FINE, "aioquic")


def _liboqs() -> Finding:
    # Never `import oqs`: it would download and build a library.
    library = ctypes.util.find_library("oqs")
    if library:
        return Finding("liboqs", Level.FINE, f"{library}: faster ML-DSA signatures")
    return Finding("liboqs", Level.NOTE, "not installed: ML-KEM and ML-DSA by the cryptography package")


def _directories() -> Iterator[Finding]:
    for subject, directory in (
        ("runtime directory", paths.runtime_dir()),
        ("state directory", paths.state_dir()),
        ("cache directory", paths.cache_dir()),
    ):
        there = _nearest(directory)
        if os.access(there, os.W_OK | os.X_OK):
            yield Finding(subject, Level.FINE, str(directory))
        else:
            yield Finding(subject, Level.FATAL, f"{directory}: {there} is not writable", "VELOCITY_*_DIR names another")


def _nearest(path: Path) -> Path:
    """Return the first folder above *path*, or itself, that exists."""
    return next((p for p in (path, *path.parents) if p.exists()), Path("/"))
