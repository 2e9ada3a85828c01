"""Files that a configuration names and that a worker may not open: certificates, keys, what `config/needs.py` lists.

They are read and opened once per revision, and sent with `Configure`. An error in them is a `ConfigError` before the
revision is sent to any worker.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509

from velocity_edge.config.model import Config
from velocity_edge.config.needs import files_of
from velocity_edge.config.section import Need, dotted_path
from velocity_edge.config.servable import unused_middlewares
from velocity_edge.errors import ConfigError
from velocity_edge.pki.files import LoadedChain, fingerprint, load_chain, spki_pin
from velocity_edge.pki.self_signed import self_signed
from velocity_edge.status.document import Certificate
from velocity_edge.tls.certs import chain_from_pem
from velocity_edge.tls.kex import group_name
from velocity_edge.tls.policy import server_policy
from velocity_edge.wire.messages import KeyedChain


@dataclass(slots=True)
class Materials:
    """One revision: the configuration and everything that it names. `close` it after its last use."""

    revision: int
    config: Config
    chains: list[KeyedChain]
    certificates: list[Certificate]
    #: Key exchange groups, in order of preference.
    groups: list[str]
    warnings: list[str]
    #: `config` as it is sent to workers and to the next supervisor.
    config_json: dict[str, Any]
    #: Path -> descriptor: O_PATH for a directory, O_RDONLY for a file.
    roots: dict[str, int] = field(default_factory=dict)

    def close(self) -> None:
        """Close the files and directories."""
        for fd in self.roots.values():
            os.close(fd)
        self.roots.clear()


def gather(revision: int, config: Config, state_directory: Path) -> Materials:
    """Return what *config* names, or raise `ConfigError`."""
    tls = config.server.tls
    loaded: list[LoadedChain] = []
    if tls.certificate is not None and tls.private_key is not None:
        loaded.append(load_chain(tls.certificate, tls.private_key))
    if tls.self_signed:
        loaded.append(self_signed(state_directory, _names(config)))
    if not loaded:
        raise ConfigError(
            "server.tls: cannot serve without a certificate: configure certificate and private_key, or self_signed"
        )
    warnings = [warning for chain in loaded for warning in chain.warnings]
    warnings += unused_middlewares(config.content)
    policy = server_policy(
        [chain_from_pem(chain.keyed) for chain in loaded],
        default_profile=config.server.profiles.default,
        permit=config.server.profiles.permit,
    )
    materials = Materials(
        revision,
        config,
        [chain.keyed for chain in loaded],
        [_describe(chain) for chain in loaded],
        [group_name(group.id) for group in policy.groups],
        warnings,
        config.to_json(),
    )
    try:
        for need in files_of(config):
            fd = _open(need)
            if fd is not None:
                materials.roots[str(need.path)] = fd
    except ConfigError:
        materials.close()
        raise
    return materials


def _names(config: Config) -> list[str]:
    """Return the names of the self-signed certificate: the configured ones, and those of sites and proxies."""
    names = [*config.server.tls.names]
    for site in config.content.sites:
        names += [name for name in (site.hostname, *site.aliases) if name != "*"]
    names += [proxy.hostname for proxy in config.content.proxies if proxy.hostname != "*"]
    return list(dict.fromkeys(names))


def _describe(chain: LoadedChain) -> Certificate:
    """Return what `status` reports about a certificate."""
    leaf = chain.leaf
    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [str(name.value) for name in extension]
    except x509.ExtensionNotFound:
        names = []
    return {
        "name": chain.keyed.name,
        "fingerprint": fingerprint(leaf),
        "spki_pin": spki_pin(leaf),
        "names": names,
        "not_after_s": leaf.not_valid_after_utc.timestamp(),
        "self_signed": leaf.issuer == leaf.subject,
    }


def _open(need: Need) -> int | None:
    """Return a descriptor; None for a file that may be missing and is."""
    # O_NONBLOCK: opening a FIFO must not wait for a writer.
    flags = os.O_PATH | os.O_DIRECTORY if need.kind == "directory" else os.O_RDONLY | os.O_NONBLOCK
    try:
        fd = os.open(need.path, flags | os.O_CLOEXEC)
    except OSError as error:
        if not need.required and isinstance(error, FileNotFoundError):
            return None
        raise ConfigError(f"{dotted_path(need.where)}: cannot use {need.path}: {error.strerror}") from None
    if need.kind == "file" and not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{dotted_path(need.where)}: cannot use {need.path}: must be a file")
    return fd
