"""`serve`: run a node from flags and a configuration.

It checks everything that can be checked without starting anything, then becomes the supervisor (exec), so that the
process that the operator started is the one that runs. Flags override the environment, which overrides the file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

import click
import orjson

from velocity_edge.cli.output import show
from velocity_edge.cli.serve_proxy import proxies, proxy_options
from velocity_edge.config.load import load_with_origins
from velocity_edge.config.servable import check
from velocity_edge.errors import CannotDo

#: Key of the configuration -> the flag that sets it, for messages.
FLAGS: Final = {
    "server.listen": "--listen",
    "server.tls.certificate": "--cert",
    "server.tls.private_key": "--key",
    "server.tls.self_signed": "--self-signed",
    "server.tls.names": "--domain",
    "server.profiles.default": "--profile",
    "server.telemetry.metrics_listen": "--metrics-listen",
    "server.telemetry.structured_logs": "--log-format",
    "server.telemetry.access_log": "--access-log",
    "server.log_level": "--log-level",
    "server.workers": "--workers",
    "server.engine": "--engine",
    "server.user": "--user",
    "dispatch.mode": "--dispatch",
    "dispatch.interfaces": "--xdp",
    "content.sites": "--root",
    "content.proxies": "--proxy",
}

#: Flags that the deployment guide or its handbook names and that are not implemented yet.
_NOT_BUILT: Final = {
    "--alpn": "cannot choose protocols yet: the node speaks h3",
    "--fallback-alpn": "cannot point to a fallback yet",
    "--fallback-host": "cannot point to a fallback yet",
    "--fallback-port": "cannot point to a fallback yet",
    "--serve-https": "cannot serve HTTP/2 and HTTP/1.1 yet: the node serves HTTP/3 on UDP",
}


def _refuse(_: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        raise CannotDo(f"{parameter.opts[0]}: {_NOT_BUILT[parameter.opts[0]]}")


def _not_built(command: Any) -> Any:
    for flag in _NOT_BUILT:
        switch = flag == "--serve-https"
        option = click.option(
            flag, is_flag=switch, default=None, hidden=True, expose_value=False, callback=_refuse, is_eager=True
        )
        command = option(command)
    return command


#: As many symlinks as the kernel follows (ELOOP).
_MAX_LINKS: Final = 40
_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--root", type=_FOLDER, help="Folder to serve for all host names.")
@click.option("--index", multiple=True, help="File to serve for a folder (index.html). Repeatable.")
@click.option("--listings", is_flag=True, help="List the files of folders without an index.")
@click.option("--config", "-c", "file", type=_FILE, help="Configuration file (docs/configuration.md).")
@click.option(
    "--edge-config",
    "edge",
    type=_FILE,
    envvar="VELOCITY_EDGE_CONFIG",
    help="File with routes and middlewares (docs/edge.md).",
)
@proxy_options
@click.option("--listen", "-l", multiple=True, metavar="ADDRESS:PORT", help="UDP address (0.0.0.0:4433). Repeatable.")
@click.option("--self-signed", is_flag=True, help="Create a self-signed certificate, to try the node.")
@click.option("--domain", multiple=True, help="Additional name in the self-signed certificate. Repeatable.")
@click.option("--cert", type=_FILE, help="Certificate chain (PEM).")
@click.option("--key", type=_FILE, help="Private key of the certificate (PEM).")
@click.option("--profile", help="Cryptography to prefer: light, balanced or secure (balanced).")
@click.option("--workers", type=int, help="Number of worker processes (one per core).")
@click.option("--engine", help="QUIC engine: native, portable or auto (auto).")
@click.option("--dispatch", metavar="MODE", help="Dispatch: auto, socket-classic, socket, xdp or xdp-cpumap (auto).")
@click.option("--xdp", multiple=True, metavar="INTERFACE", help="Attach the XDP shield to this interface. Repeatable.")
@click.option("--user", help="User of the workers if root starts the node (velocity, else nobody).")
@click.option("--metrics-listen", metavar="ADDRESS:PORT", help="Address for Prometheus and the status page (off).")
@click.option("--access-log", help="Access log, one line per request: off, json or clf (off).")
@click.option("--log-level", help="Log level: debug, info, warning or error (info).")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Log format (text).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set any key: server.limits.idle_timeout=1m. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Check everything and start nothing.")
@_not_built
def serve(file: Path | None, edge: Path | None, settings: tuple[str, ...], dry_run: bool, **flags: Any) -> None:
    """Run a node that serves a folder, a server behind it, or a configuration.

    \b
    velocity-edge serve --root public --self-signed --listen 0.0.0.0:4433
    velocity-edge serve --proxy http://127.0.0.1:8080 --self-signed
    velocity-edge serve --config /etc/velocity/serve.simple.yaml --edge-config /etc/velocity/edge.yaml
    """
    proxied = proxies(flags, with_file=file is not None, with_root=flags["root"] is not None)
    overrides = _overrides(**flags) | ({"content.proxies": proxied} if proxied else {})
    names = dict(FLAGS)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise click.UsageError(f"cannot use --set {setting!r}: expected KEY=VALUE")
        overrides[key], names[key] = _value(text), "--set"
    loaded = load_with_origins(file, overrides, flags=names, edge=edge)
    if file and flags["root"] and any(note.startswith("content.sites:") for note in loaded.notes):
        raise click.UsageError(f"cannot combine --root with the sites of {file}: use one of them")
    for note in loaded.notes:
        show(f"velocity-edge: note: {note}", err=True)
    warnings = check(loaded, upstreams=dry_run)
    if dry_run:
        for warning in warnings:
            show(f"velocity-edge: note: {warning}", err=True)
        show("A node can serve this.")
        return
    program = [
        interpreter(Path(sys.argv[0]), Path(sys.executable)),
        "-I",
        "-m",
        "supervisor",
        "--set",
        orjson.dumps(overrides).decode(),
    ]
    if file:
        program += ["--config", str(file.absolute())]
    if edge:
        program += ["--edge-config", str(edge.absolute())]
    sys.stdout.flush()
    os.execv(program[0], program)


def interpreter(command: Path, executable: Path) -> str:
    """Return the path of the interpreter through the symlinks by which *command* was found, if it is the same file.

    The first line of a script names the folder that it was installed in. A node that was started through a symlink
    (/opt/velocity/current) must keep using it, or an upgrade would run the old folder again.
    """
    command = command.absolute()
    for _ in range(_MAX_LINKS):
        beside = command.parent / executable.name
        try:
            if command.parent.samefile(executable.parent) and beside.exists():
                return str(beside)
            command = command.parent / command.readlink()
        except OSError:
            break
    return str(executable)


def _overrides(**flags: Any) -> dict[str, Any]:
    """Return the keys that the flags set; paths become absolute, because the supervisor changes its directory."""
    found: dict[str, Any] = {}
    for key, value in (
        ("server.listen", list(flags["listen"])),
        ("server.tls.certificate", flags["cert"] and str(flags["cert"].absolute())),
        ("server.tls.private_key", flags["key"] and str(flags["key"].absolute())),
        ("server.tls.self_signed", flags["self_signed"] or None),
        ("server.tls.names", list(flags["domain"])),
        ("server.profiles.default", flags["profile"]),
        ("server.workers", flags["workers"]),
        ("server.engine", flags["engine"]),
        ("server.user", flags["user"]),
        ("server.telemetry.metrics_listen", flags["metrics_listen"]),
        ("server.telemetry.access_log", flags["access_log"]),
        ("server.telemetry.structured_logs", flags["log_format"] and flags["log_format"] == "json"),
        ("server.log_level", flags["log_level"]),
        ("dispatch.interfaces", list(flags["xdp"])),
        # --xdp asks for the shield: a machine without it is then an error, not only a line in the log.
        ("dispatch.mode", flags["dispatch"] or ("xdp" if flags["xdp"] else None)),
    ):
        if value is not None and value != []:
            found[key] = value
    if flags["root"]:
        site: dict[str, Any] = {"hostname": "*", "root": str(flags["root"].absolute())}
        if flags["index"]:
            site["index"] = list(flags["index"])
        if flags["listings"]:
            site["listings"] = True
        found["content.sites"] = [site]
    elif flags["index"] or flags["listings"]:
        raise click.UsageError("cannot use --index or --listings without --root: in a file they belong to a site")
    return found


def _value(text: str) -> Any:
    """Return *text* as a value of the configuration file: 5 is a number, [a, b] a list."""
    from velocity_edge.config.tree import parse

    return parse(f"value: {text}", "--set").values["value"]
