"""Checks that a node can serve a configuration on this machine: it has content, the files and directories that it names
can be opened, and the certificate chain and private key match.

No file stays open: the supervisor opens them again, and reports itself what has changed meanwhile. `serve` and
`config lint` call this, so that an error is reported before anything is started.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from velocity_edge.config.content import Content
from velocity_edge.config.load import Loaded
from velocity_edge.config.needs import files_of
from velocity_edge.config.plugin_names import plugin_problems
from velocity_edge.config.refusal import refuse
from velocity_edge.config.section import Problem
from velocity_edge.config.upstream_checks import upstream_problems
from velocity_edge.pki.files import UnusableFile, load_chain


def check(loaded: Loaded, *, upstreams: bool = False, part: bool = False) -> tuple[str, ...]:
    """Return warnings, such as an expired certificate.

    *part*: it is an edge configuration alone, whose certificate is in another file. *upstreams*: resolve their names
    and load their TLS files, too (upstream_checks.py). Raises `ConfigError` when the configuration cannot be served
    from here, with the place of each reason.
    """
    content = loaded.config.content
    found = [*_content(loaded, part=part), *_files(loaded), *plugin_problems(content)]
    if upstreams:
        found += upstream_problems(content)
    warnings = unused_middlewares(content)
    tls = loaded.config.server.tls
    if tls.certificate is not None and tls.private_key is not None:
        try:
            warnings += load_chain(tls.certificate, tls.private_key).warnings
        except UnusableFile as error:
            key = "private_key" if error.path == tls.private_key else "certificate"
            found.append((("server", "tls", key), str(error)))
    if found:
        raise refuse(found, loaded.origins, loaded.name)
    return warnings


def unused_middlewares(content: Content) -> tuple[str, ...]:
    """Return a warning for each middleware that is defined and protects nothing."""
    return tuple(
        f"content.middlewares: {name!r} is used by no site, proxy or route: name it in their `middlewares`, "
        "or set `everywhere: true`"
        for name in content.unused()
    )


def _content(loaded: Loaded, *, part: bool) -> Iterator[Problem]:
    if part:
        return
    content = loaded.config.content
    if not (content.sites or content.proxies or content.routes):
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


def _files(loaded: Loaded) -> Iterator[Problem]:
    for need in files_of(loaded.config):
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_DIRECTORY if need.kind == "directory" else 0)
        try:
            fd = os.open(need.path, flags)
        except NotADirectoryError:
            yield need.where, f"cannot use {need.path}: must be a directory"
            continue
        except OSError as error:
            if need.required or not isinstance(error, FileNotFoundError):
                yield need.where, f"cannot use {need.path}: {error.strerror}"
            continue
        if need.kind == "file" and not stat.S_ISREG(os.fstat(fd).st_mode):
            yield need.where, f"cannot use {need.path}: must be a file"
        os.close(fd)
