"""Doctor's findings about the installation: Python, CPUs, the user of workers, packages, engines, directories."""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from velocity_edge import paths
from velocity_edge.errors import Unavailable
from velocity_edge.machine.cpus import affinity_refused, cpu_quota, workers_by_default
from velocity_edge.machine.findings import Finding, Level
from velocity_edge.machine.needs import too_few_descriptors
from velocity_edge.machine.worker_user import DEFAULT_USERS, Rights, choose

#: The top-level packages have plain names; another distribution could install one of the same name.
PACKAGES: Final = ("velocity_edge", "supervisor", "workers", "bpf")


def host() -> Iterator[Finding]:
    """Examine what every tier needs."""
    yield Finding("Python", Level.FINE, f"{platform.python_version()} in {sys.prefix}")
    yield from _cores()
    yield _user()
    yield owners(importlib.metadata.packages_distributions())
    yield from _engines()
    yield _liboqs()
    yield from _directories()


def _cores() -> Iterator[Finding]:
    allowed, workers, quota = len(os.sched_getaffinity(0)), workers_by_default(), cpu_quota()
    text = f"{allowed}, and as many workers by default"
    if workers < allowed:
        text = f"{allowed}, and {workers} workers by default: the quota of this control group is {quota:g} CPUs"
    if why := affinity_refused():
        yield Finding(
            "cores", Level.LACKING, f"{text}; {why}", "use a seccomp filter that permits sched_setaffinity(2)"
        )
    else:
        yield Finding("cores", Level.FINE, text)
    if why := too_few_descriptors(1, allowed, 1):
        yield Finding("open files", Level.FATAL, why)


def _user() -> Finding:
    choice = choose(None, Rights.of_this_process())
    if choice.degraded:
        return Finding("worker user", Level.LACKING, choice.degraded)
    if choice.user is None:
        return Finding("worker user", Level.NOTE, "not root: workers run as the same user as the supervisor")
    if choice.user.name != DEFAULT_USERS[0]:
        remedy = "useradd --system --home /var/lib/velocity velocity"
        return Finding("worker user", Level.NOTE, f"no user velocity: workers run as {choice.user.name}", remedy)
    return Finding("worker user", Level.FINE, choice.user.name)


def owners(distributions: Mapping[str, Iterable[str]]) -> Finding:
    """Return whether another distribution has installed a package of the same name."""
    foreign = {
        package: sorted(set(distributions.get(package, ())) - {"velocity-edge"})
        for package in PACKAGES
        if set(distributions.get(package, ())) - {"velocity-edge"}
    }
    if foreign:
        who = "; ".join(f"{package} also by {', '.join(names)}" for package, names in foreign.items())
        return Finding(
            "package names", Level.FATAL, who, "install velocity-edge in an environment of its own (make build)"
        )
    return Finding("package names", Level.FINE, "only velocity-edge installs " + ", ".join(PACKAGES))


def _engines() -> Iterator[Finding]:
    from velocity_edge.quic.open_engine import native_missing

    missing = native_missing()
    if missing:
        remedy = "make build, as root when libraries are missing; the portable engine serves meanwhile"
        yield Finding("engine native", Level.LACKING, f"not available: {missing}", remedy)
    else:
        yield Finding("engine native", Level.FINE, "ngtcp2 and nghttp3")
    try:
        importlib.import_module("velocity_edge.quic.portable")
    except ImportError as error:
        yield Finding("engine portable", Level.FATAL, f"not available: {error}", "make build")
    else:
        yield Finding("engine portable", Level.FINE, "aioquic")


def _liboqs() -> Finding:
    # Without `import oqs`, which would download and build a library.
    library = None
    with contextlib.suppress(OSError):  # find_library runs gcc, which needs a directory for temporary files
        library = ctypes.util.find_library("oqs")
    if library:
        return Finding("liboqs", Level.FINE, f"{library}: faster ML-DSA signatures")
    return Finding("liboqs", Level.NOTE, "not installed: the cryptography package provides ML-KEM and ML-DSA")


def _directories() -> Iterator[Finding]:
    for subject, find, level, cost in (
        ("runtime directory", paths.runtime_dir, Level.FATAL, ""),
        ("state directory", paths.state_dir, Level.FATAL, ""),
        ("cache directory", paths.cache_dir, Level.LACKING, ": packet programs are compiled at each start"),
    ):
        try:
            directory = find()
        except Unavailable as error:
            yield Finding(subject, level, str(error))
            continue
        if why := paths.unwritable(directory):
            yield Finding(subject, level, f"{directory}: {why}{cost}", "set VELOCITY_*_DIR to another one")
        else:
            yield Finding(subject, Level.FINE, str(directory))
