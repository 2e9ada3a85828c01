"""Whether a node could serve a configuration on this machine: there is something to show, and its files can be read.

Looks at files but keeps none open: the supervisor opens them again, and whatever has changed until then it reports
itself. `serve` and `config lint` call this, so that a typing mistake is named before anything is started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from velocity_edge.config.load import Loaded, refuse
from velocity_edge.config.rules import Problem


def check(loaded: Loaded) -> None:
    """Raise `ConfigError` when the configuration cannot be served from here, with the place of each reason."""
    if found := [*_content(loaded), *_files(loaded)]:
        raise refuse(found, loaded.origins, loaded.name)


def _content(loaded: Loaded) -> Iterator[Problem]:
    if not loaded.config.content.sites:
        yield ("content", "sites"), "cannot serve nothing: name a folder with --root, or sites in a configuration"
    tls = loaded.config.server.tls
    if tls.certificate is None and not tls.self_signed:
        yield (
            ("server", "tls", "certificate"),
            "cannot serve without a certificate: give --cert and --key, or --self-signed to try it",
        )


def _files(loaded: Loaded) -> Iterator[Problem]:
    tls = loaded.config.server.tls
    for key, file in (("certificate", tls.certificate), ("private_key", tls.private_key)):
        if file is not None and (why := _unreadable(file, folder=False)):
            yield ("server", "tls", key), f"cannot use {file}: {why}"
    for i, site in enumerate(loaded.config.content.sites):
        if why := _unreadable(site.root, folder=True):
            yield ("content", "sites", str(i), "root"), f"cannot use {site.root}: {why}"


def _unreadable(path: Path, *, folder: bool) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECTORY if folder else 0))
    except NotADirectoryError:
        return "must be a folder"
    except OSError as error:
        return error.strerror or str(error)
    os.close(descriptor)
    return "" if folder or path.is_file() else "must be a file"
