"""Types of single values of the configuration: durations, sizes, addresses, networks, paths.

Each parser takes the value from the file and returns what the program uses, or raises ValueError with a sentence that
begins with "cannot" and says what is expected. The position is added by load.py.

All parsers accept their own output, so that a resolved configuration can be read again (Config.from_json).
"""

from __future__ import annotations

import ipaddress
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, ValidationInfo

from velocity_edge.wire.messages import Listener

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_HOSTNAME: Final = re.compile(
    r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\Z"
)


def parse_duration(value: Any) -> float:
    """Return seconds for "500ms", "5s", "2m", "1h30m", "24h", "7d", or for a plain number of seconds."""
    hint = "must be a duration such as 500ms, 5s, 2m, 1h30m or 7d"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"cannot use {value!r}: {hint}")
    if isinstance(value, str):
        if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h|d))+", value):
            raise ValueError(f"cannot use {value!r}: {hint}")
        value = sum(float(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value))
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"cannot use {value!r}: {hint}")
    return float(value)


def parse_size(value: Any) -> int:
    """Return bytes for "64KiB", "1MiB", "10MB", or for a plain number of bytes."""
    hint = "must be a size such as 65536, 64KiB, 1MiB or 10MB"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"cannot use {value!r}: {hint}")
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"cannot use {value!r}: {hint}")
        return value
    found = re.fullmatch(r"(\d+) ?([a-z]*)", value.lower())
    if found is None or found[2] not in _BYTES:
        raise ValueError(f"cannot use {value!r}: {hint}")
    return int(found[1]) * _BYTES[found[2]]


def parse_address(text: str) -> Listener:
    """Return the address in "0.0.0.0:4433" or "[::]:443"; port 0: any free port."""
    hint = "must be an IP address and a port, such as 0.0.0.0:4433 or [::]:443"
    found = re.fullmatch(r"\[([0-9a-fA-F:.]+(?:%[\w.-]{1,15})?)\]:(\d{1,5})|([0-9.]+):(\d{1,5})", text, re.ASCII)
    if found is None:
        raise ValueError(f"cannot use {text!r}: {hint}")
    host, port = found[1] or found[3], int(found[2] or found[4])
    try:
        address = ipaddress.IPv6Address(found[1]) if found[1] else ipaddress.IPv4Address(host)
    except ValueError:
        raise ValueError(f"cannot use {text!r}: {host!r} is not an IP address; {hint}") from None
    if isinstance(address, ipaddress.IPv6Address) and address.is_link_local != (address.scope_id is not None):
        raise ValueError(
            f"cannot use {text!r}: link-local addresses require an interface, others have none: [fe80::1%eth0]:443"
        )
    if port > 65535:
        raise ValueError(f"cannot use {text!r}: the highest port is 65535")
    return Listener(str(address), port)


def format_address(address: Listener) -> str:
    """Return what `parse_address` reads; an address that is not UDP has its transport at the end: "[::]:443/tcp"."""
    suffix = "" if address.transport == "udp" else f"/{address.transport}"
    return (
        f"[{address.host}]:{address.port}{suffix}" if ":" in address.host else f"{address.host}:{address.port}{suffix}"
    )


def _address(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"cannot use {value!r}: must be an IP address and a port, such as 0.0.0.0:4433 or [::]:443")
    return format_address(parse_address(value))


def _hostname(value: str) -> str:
    name = value.lower().rstrip(".")
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    if name != "*" and not (_HOSTNAME.match(name) and len(name) <= 253):
        raise ValueError(f'cannot use {value!r}: must be a host name, "*.example.com", or "*" for every other name')
    return name


def _network(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        raise ValueError(f"cannot use {value!r}: {error}; must be a network such as 192.0.2.0/24") from None


def _path(value: Any, info: ValidationInfo) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"cannot use {value!r}: must be a path")
    base = (info.context or {}).get("base", Path())
    try:
        return str(base / Path(value).expanduser())
    except RuntimeError:
        raise ValueError(f"cannot use {value!r}: this machine has no such user") from None


def _route_path(value: str) -> str:
    if not re.fullmatch(r"/[!-~]*", value) or "?" in value or "#" in value:
        raise ValueError(f"cannot use {value!r}: must be a path as in a request, such as /api or /a%20b")
    return value


def _method(value: str) -> str:
    if not re.fullmatch(r"[A-Z]+", value):
        raise ValueError(f"cannot use {value!r}: must be a method in capital letters, such as GET or POST")
    return value


def _list_of_one(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Written:
    """How a value is written, for docs/configuration.md."""

    as_: str


#: Seconds.
Duration = Annotated[float, BeforeValidator(parse_duration), Written("duration")]
#: Bytes.
Size = Annotated[int, BeforeValidator(parse_size), Written("size")]
#: "host:port", normalised; `parse_address` parses it.
Address = Annotated[str, BeforeValidator(_address), Written("address:port")]
Hostname = Annotated[str, AfterValidator(_hostname), Written("host name")]
#: "192.0.2.0/24", normalised.
Network = Annotated[str, BeforeValidator(_network), Written("network")]
#: Percent-encoded, without the query.
RoutePath = Annotated[str, AfterValidator(_route_path), Written("path of requests")]
Method = Annotated[str, AfterValidator(_method), Written("method")]
#: Absolute once loaded: a path in a file is relative to the directory of that file.
AbsolutePath = Annotated[Path, BeforeValidator(_path), PlainSerializer(str), Written("path")]
#: For lists: a single value is accepted as a list of one.
OneOrMore = BeforeValidator(_list_of_one)
