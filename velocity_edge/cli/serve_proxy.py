"""`serve --proxy URL` and its options: one proxy for all host names, without a configuration file.

Each option can be given as a variable of the environment, too (`variable`). More than this, such as several upstreams,
is in `content.proxies` of a file.
"""

from __future__ import annotations

from typing import Any, Final

import click

#: Option -> the key of `content.proxies[]` below which its value is, and its help.
_OPTIONS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "--proxy-connect-timeout": (("timeouts", "connect"), "Time to connect (10s)."),
    "--proxy-response-timeout": (("timeouts", "response"), "Time until the response begins (30s)."),
    "--proxy-idle-timeout": (("timeouts", "idle"), "Time between two chunks of a body (90s)."),
    "--proxy-tcp-keepalive": (("tcp_keepalive",), "Time between keep-alive probes of an idle connection (60s)."),
}
_SWITCHES: Final[dict[str, tuple[str, str]]] = {
    "--proxy-preserve-host": ("preserve_host", "Forward the client's host name."),
    "--proxy-stream": ("streaming", "Forward bodies as they arrive (always so)."),
}


def proxy_options(command: Any) -> Any:
    """Add the options to a click command."""
    for flag, (_, text) in reversed(_SWITCHES.items()):
        command = click.option(flag, is_flag=True, envvar=variable(flag), help=text)(command)
    for flag, (_, text) in reversed(_OPTIONS.items()):
        command = click.option(flag, metavar="DURATION", envvar=variable(flag), help=text)(command)
    text = "Forward all requests to this server: http://127.0.0.1:8080."
    return click.option("--proxy", metavar="URL", envvar=variable("--proxy"), help=text)(command)


def variable(flag: str) -> str:
    """Return the name of a flag's variable."""
    return "VELOCITY_" + flag.strip("-").replace("-", "_").upper()


def proxies(flags: dict[str, Any], *, with_file: bool, with_root: bool) -> list[dict[str, Any]] | None:
    """Return `content.proxies` as the flags set it; None without `--proxy`. Takes the flags out of *flags*.

    *with_file*, *with_root*: `--config` or `--root` were given. Raises `UsageError` for what cannot be combined.
    """
    url = flags.pop("proxy")
    found: dict[str, Any] = {"hostname": "*", "upstream": url}
    for flag, (path, _) in _OPTIONS.items():
        value = flags.pop(_name(flag))
        if value is not None:
            _refuse_alone(flag, url)
            section = found.setdefault(path[0], {}) if len(path) == 2 else found
            section[path[-1]] = value
    for flag, (key, _) in _SWITCHES.items():
        if flags.pop(_name(flag)):
            _refuse_alone(flag, url)
            found[key] = True
    if url is None:
        return None
    if with_file:
        raise click.UsageError("cannot combine --proxy with --config: add the proxy to content.proxies of the file")
    if with_root:
        raise click.UsageError("cannot combine --proxy with --root: both are for every path; use --config")
    return [found]


def _name(flag: str) -> str:
    return flag.strip("-").replace("-", "_")


def _refuse_alone(flag: str, url: str | None) -> None:
    if url is None:
        raise click.UsageError(f"cannot use {flag} without --proxy: in a file it belongs to a proxy")
