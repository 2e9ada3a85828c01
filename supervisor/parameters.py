"""What a node derives from its configuration and its machine: settings, worker options, CPUs, and its number."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from supervisor.node.state import Settings
from velocity_edge.atomic_file import read_file, replace_file
from velocity_edge.config.model import Config
from velocity_edge.errors import ConfigError


def worker_options(config: Config) -> list[str]:
    """Return the options of a worker process: what it needs before its first message."""
    return ["--engine", config.server.engine, *(["--user", config.server.user] if config.server.user else [])]


def node_settings(config: Config, cores: int) -> Settings:
    """Return the settings of the node that the configuration determines."""
    return Settings(
        cores,
        drain_timeout_s=config.server.drain.timeout_s,
        drain_spread_s=config.server.drain.spread_s,
        quarantine_s=config.server.limits.idle_timeout_s + 10.0,
    )


def choose_cpus(workers: int | None) -> list[int]:
    """Return a CPU for each core that may have a worker: the allowed ones, in turn when more workers are wanted."""
    allowed = sorted(os.sched_getaffinity(0))
    count = max(workers or 0, len(allowed))
    return [allowed[index % len(allowed)] for index in range(count)]


def kept_node_id(directory: Path) -> int:
    """Return the node's number in connection IDs: random on the first start, the same ever after."""
    path = directory / "node-id"
    try:
        text = read_file(path, 64).decode("ascii", "replace").strip()
    except FileNotFoundError:
        node_id = secrets.randbits(32)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, f"{node_id}\n".encode(), 0o644)
        return node_id
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= 0xFFFFFFFF):
        raise ConfigError(f"cannot use {path}: expected a number of 32 bits, not {text[:40]!r}")
    return int(text)
