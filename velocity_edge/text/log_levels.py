"""Log levels by target: `warning,workers.proxy=debug`, as in RUST_LOG, parsed; pure.

A target is a part of this program by its Python name (`supervisor`, `workers.proxy`, `velocity_edge.tls`) and means all
modules below it, or one of the names in `ALIASES`. A level without a target is that of everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from velocity_edge.errors import VelocityError

LEVELS: Final = ("debug", "info", "warning", "error", "off")
_SAME: Final[Mapping[str, str]] = {"trace": "debug", "warn": "warning", **{level: level for level in LEVELS}}
#: Short names, those that deployments of the Rust program use, too: `velocity::proxy=debug`.
ALIASES: Final[Mapping[str, str]] = {
    "server": "workers.serve",
    "proxy": "workers.proxy",
    "edge": "workers.middleware",
    "router": "workers.serve",
    "tls": "velocity_edge.tls",
    "handshake": "velocity_edge.tls",
    "quic": "velocity_edge.quic",
    "config": "velocity_edge.config",
    "metrics": "velocity_edge.status",
}
_PACKAGES: Final = ("supervisor", "workers", "velocity_edge", "bpf", "asyncio", "aiohttp")
#: Of one set of levels: enough for each module that logs.
_MAX_TARGETS: Final = 64


@dataclass(frozen=True, slots=True)
class LogLevels:
    """Parsed levels. `default` is None where only targets were named."""

    default: str | None = None
    #: Logger -> level.
    targets: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        named = [f"{target}={level}" for target, level in self.targets.items()]
        return ",".join([*([self.default] if self.default else []), *named])


def parse_levels(text: str) -> LogLevels:
    """Return the levels in *text*. Raises `VelocityError` that says which part cannot be understood."""
    default, targets = None, dict[str, str]()
    for part in filter(None, (part.strip() for part in text.split(","))):
        target, equals, level = (each.strip() for each in part.rpartition("="))
        if level.lower() not in _SAME:
            raise VelocityError(f"cannot understand the log level {level!r}: expected {', '.join(LEVELS)}")
        if not equals:
            default = _SAME[level.lower()]
            continue
        targets[_logger(target)] = _SAME[level.lower()]
    if len(targets) > _MAX_TARGETS:
        raise VelocityError(f"cannot set the log levels of {len(targets)} targets: at most {_MAX_TARGETS}")
    return LogLevels(default, targets)


def _logger(target: str) -> str:
    name = target.removeprefix("velocity::").replace("::", ".")
    name = ALIASES.get(name, name)
    package, *parts = name.split(".")
    if package not in _PACKAGES or not all(part.isidentifier() for part in parts):
        known = ", ".join((*_PACKAGES[:4], *ALIASES))
        raise VelocityError(f"cannot set the log level of {target!r}: expected {known}, or a module of ours")
    return name
