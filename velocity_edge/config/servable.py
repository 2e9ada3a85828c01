"""Checks that a node can serve a configuration on this machine: it has a site, the directories can be opened, and the
certificate chain and private key match.

No file stays open: the supervisor opens them again, and reports itself what has changed meanwhile. `serve` and
`config lint` call this, so that an error is reported before anything is started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from velocity_edge.config.load import Loaded, refuse
from velocity_edge.config.section import Problem
from velocity_edge.pki.files import UnusableFile, load_chain


def check(loaded: Loaded) -> tuple[str, ...]:
    """Return warnings, such as an expired certificate.

    Raises `ConfigError` when the configuration cannot be served from here, with the place of each reason.
    """
    found = [*_content(loaded), *_roots(loaded)]
    warnings: tuple[str, ...] = ()
    tls = loaded.config.server.tls
    if tls.certificate is not None and tls.private_key is not None:
        try:
            warnings = load_chain(tls.certificate, tls.private_key).warnings
        except UnusableFile as error:
            key = "private_key" if error.path == tls.private_key else "certificate"
            found.append((("server", "tls", key), str(error)))
    if found:
        raise refuse(found, loaded.origins, loaded.name)
    return warnings


def _content(loaded: Loaded) -> Iterator[Problem]:
    if not loaded.config.content.sites:
        yield (
            ("content", "sites"),
            "cannot serve without content: give a directory with --root, or sites in a configuration",
        )
    tls = loaded.config.server.tls
    if tls.certificate is None and not tls.self_signed:
        yield (
            ("server", "tls", "certificate"),
            "cannot serve without a certificate: give --cert and --key, or --self-signed for a test",
        )


def _roots(loaded: Loaded) -> Iterator[Problem]:
    for i, site in enumerate(loaded.config.content.sites):
        try:
            os.close(os.open(site.root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
        except NotADirectoryError:
            yield ("content", "sites", str(i), "root"), f"cannot use {site.root}: must be a directory"
        except OSError as error:
            yield ("content", "sites", str(i), "root"), f"cannot use {site.root}: {error.strerror}"
