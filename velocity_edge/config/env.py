"""Environment variables that set a key of the configuration.

Only the variables in this table are used. Others that begin with VELOCITY_ are ignored, as clusters set such names:
a Kubernetes service called "velocity" adds VELOCITY_SERVICE_HOST and VELOCITY_PORT to the environment of every pod.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from velocity_edge.errors import ConfigError


def _text(value: str) -> str:
    return value


def _list(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _path(value: str) -> str:
    return str(Path(value).expanduser().absolute())


def _whole(value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"cannot use {value!r}: must be a whole number")
    return int(value)


def _switch(value: str) -> bool:
    if value.lower() not in {"0", "1", "true", "false"}:
        raise ValueError(f"cannot use {value!r}: must be true or false")
    return value.lower() in {"1", "true"}


#: Variable -> (key, how its text becomes a value).
VARIABLES: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "VELOCITY_LISTEN": ("server.listen", _list),
    "VELOCITY_CERT": ("server.tls.certificate", _path),
    "VELOCITY_KEY": ("server.tls.private_key", _path),
    "VELOCITY_SELF_SIGNED": ("server.tls.self_signed", _switch),
    "VELOCITY_PROFILE": ("server.profiles.default", _text),
    "VELOCITY_METRICS_LISTEN": ("server.telemetry.metrics_listen", _text),
    "VELOCITY_STRUCTURED_LOGS": ("server.telemetry.structured_logs", _switch),
    "VELOCITY_WORKERS": ("server.workers", _whole),
    "VELOCITY_ENGINE": ("server.engine", _text),
    "VELOCITY_LOG_LEVEL": ("server.log_level", _text),
    "VELOCITY_LOG_LEVELS": ("server.log_levels", _text),
    "VELOCITY_USER": ("server.user", _text),
    "VELOCITY_NODE_ID": ("server.node_id", _whole),
    "VELOCITY_DISPATCH": ("dispatch.mode", _text),
    "VELOCITY_INTERFACES": ("dispatch.interfaces", _list),
}


def overrides(environment: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """Return key -> (variable, value) for each variable of the table that is set and not empty."""
    found: dict[str, tuple[str, Any]] = {}
    for variable, (key, convert) in VARIABLES.items():
        if text := environment.get(variable):
            try:
                found[key] = (variable, convert(text))
            except ValueError as error:
                raise ConfigError(f"{variable}: {key}: {error}") from None
    return found
