"""The address of an upstream as it is written: `http://host:port/base`, `https://`, `h2c://`, `unix:/path`. Pure.

Which addresses a name has is decided later (workers/proxy/dns.py), again and again.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator

from velocity_edge.config.values import Written

_HINT: Final = "must be an address such as http://127.0.0.1:8080, https://app.example.com or unix:/run/app.sock"
_NAME: Final = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.?")
_PORTS: Final = {"http": 80, "h2c": 80, "https": 443}
#: sockaddr_un.sun_path without its final NUL.
_MAX_UNIX_BYTES: Final = 107


@dataclass(frozen=True, slots=True)
class UpstreamUrl:
    """A parsed address. `host` is a name or an IP address without brackets; of a unix socket, "" (`socket` is set)."""

    scheme: Literal["http", "https", "h2c", "unix"]
    host: str
    port: int
    #: The path in front of each request's path, without a slash at its end; "" for none.
    base: str = ""
    #: Path of the unix socket.
    socket: str = ""

    @property
    def is_name(self) -> bool:
        """Whether the host is a name, which must be resolved."""
        return not self.socket and not _is_ip(self.host)

    @property
    def authority(self) -> str:
        """What an upstream gets as `host` when the client's is not preserved; `localhost` for a unix socket."""
        if self.socket:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Return what `parse_upstream` reads; also the name of the server in metrics and `status`."""
        return f"unix:{self.socket}" if self.socket else f"{self.scheme}://{self.authority}{self.base}"


def parse_upstream(text: str) -> UpstreamUrl:
    """Return the parsed address. Raises ValueError with a sentence that begins with "cannot"."""
    if text.startswith("unix:"):
        return _unix(text)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in _PORTS:
        raise ValueError(f"cannot use {text!r}: {_HINT}")
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ValueError(f"cannot use an address with user information: set headers.request.set.authorization; {_HINT}")
    if "?" in rest or "#" in rest or not re.fullmatch(r"[!-~]*", rest):
        raise ValueError(f"cannot use {text!r}: a query, a fragment, spaces and non-ASCII cannot be part; {_HINT}")
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", authority, re.ASCII)
    if found is None:
        raise ValueError(f"cannot use {text!r}: {_HINT}")
    host, port = (found[1] or found[2]).lower(), int(found[3] or _PORTS[scheme])
    if found[1] and not _is_ip(host):
        raise ValueError(f"cannot use {text!r}: {host!r} is not an IPv6 address; {_HINT}")
    if not found[1] and not _is_ip(host) and (not _NAME.fullmatch(host) or len(host) > 253 or _like_ip(host)):
        raise ValueError(f"cannot use {text!r}: {host!r} is not a host name; {_HINT}")
    if not 0 < port < 65536:
        raise ValueError(f"cannot use {text!r}: the port must be 1 to 65535")
    if found[1]:
        host = str(ipaddress.ip_address(host))
    base = ("/" + path).rstrip("/") if slash else ""
    return UpstreamUrl(scheme, host.rstrip("."), port, base)  # type: ignore[arg-type]


def _unix(text: str) -> UpstreamUrl:
    path = text.removeprefix("unix:")
    if path.startswith("//"):
        path = path.removeprefix("//")
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"cannot use {text!r}: must be an absolute path, such as unix:/run/app.sock")
    if len(path.encode()) > _MAX_UNIX_BYTES:
        raise ValueError(f"cannot use {text!r}: the path of a socket has at most {_MAX_UNIX_BYTES} bytes")
    return UpstreamUrl("unix", "", 0, "", path)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _like_ip(host: str) -> bool:
    """Whether the last label is a number: no name of the DNS ends so (RFC 3696 section 2), but mistyped IPv4 does."""
    return host.rstrip(".").rpartition(".")[2].isdigit()


def _normal(value: Any) -> str:
    return str(parse_upstream(value))


#: Normalised; `parse_upstream` parses it.
Url = Annotated[str, AfterValidator(_normal), Written("address of an upstream")]
