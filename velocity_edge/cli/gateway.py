"""`gateway`: HTTP/1.1 in, HTTP/3 with post-quantum key exchange to a node out."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from pathlib import Path
from typing import Any

import click

from velocity_edge.cli.options import SECONDS
from velocity_edge.cli.output import show
from velocity_edge.config.values import parse_address
from velocity_edge.wire.messages import Listener

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--listen", default="127.0.0.1:8080", help="Address and port for HTTP/1.1 (127.0.0.1:8080).")
@click.option("--upstream", required=True, metavar="URL", help="The node: https://node:4433")
@click.option("--resolve", metavar="ADDRESS[:PORT]", help="Connect to this address instead of the one in the URL.")
@click.option("--ca", type=_FILE, help="Trust the certificates in this file (PEM).")
@click.option("--insecure", "-k", is_flag=True, help="Do not verify the node's certificate.")
@click.option("--pin", metavar="SHA256", help="Accept only this public key: its SHA-256, as `status --json` shows it.")
@click.option("--preserve-host", is_flag=True, help="Pass the Host of clients on, in place of the node's own name.")
@click.option("--connect-timeout", type=SECONDS, default="10s", help="For a connection to the node (10s).")
@click.option("--response-timeout", type=SECONDS, default="30s", help="For the head of a response (30s).")
@click.option("--idle-timeout", type=SECONDS, default="90s", help="While nothing of a body passes (90s).")
@click.option("--grace", type=SECONDS, default="10s", help="At the end, for requests that run (10s).")
@click.option("--max-requests", type=click.IntRange(1), default=1024, help="At once; more get a 503 (1024).")
def gateway(
    listen: str,
    upstream: str,
    resolve: str | None,
    ca: Path | None,
    insecure: bool,
    pin: str | None,
    preserve_host: bool,
    connect_timeout: float,
    response_timeout: float,
    idle_timeout: float,
    grace: float,
    max_requests: int,
) -> int:
    """Let programs that speak only HTTP/1.1 use a node: a local proxy, HTTP/1.1 in and HTTP/3 out."""
    from velocity_edge.gateway.run import Settings, run
    from velocity_edge.gateway.server import Rules
    from velocity_edge.text import logs

    address = _listen(listen)
    url = _url(upstream)
    options = _options(url, resolve, ca, insecure, pin, idle_timeout)
    settings = Settings(
        address.host,
        address.port,
        url,
        options,
        Rules(response_timeout, preserve_host, max_requests),
        connect_timeout,
        grace,
    )
    logs.begin("%(asctime)s %(levelname)s gateway: %(message)s")

    def listening(host: str, port: int) -> None:
        show(f"listening on http://{f'[{host}]' if ':' in host else host}:{port} for {url}", err=True)

    asyncio.run(run(settings, listening))
    return 0


def _listen(text: str) -> Listener:
    try:
        return parse_address(text)
    except ValueError as error:
        raise click.UsageError(f"cannot listen on {text!r}: {error}") from None


def _url(text: str) -> str:
    from velocity_edge.client.options import split_url

    parts = split_url(text)
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise click.UsageError(f"cannot use {text!r} as a node: expected https://host[:port] without a path")
    return f"https://{parts.netloc}"


def _options(
    url: str, resolve: str | None, ca: Path | None, insecure: bool, pin: str | None, idle_timeout: float
) -> Any:
    from velocity_edge.client.options import Options, client_policy, split_url

    if sum((ca is not None, insecure, pin is not None)) > 1:
        raise click.UsageError("cannot combine --ca, --insecure and --pin: each is a way to trust the node")
    found = None
    if resolve is not None:
        match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", resolve)
        if match is None:
            raise click.UsageError(f"cannot connect to {resolve!r}: expected ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT")
        found = match[1] or match[2], int(match[3] or split_url(url).port or 443)
    options = Options(
        insecure=insecure, cafile=ca, pin=_pin(pin) if pin else b"", resolve=found, timeout_s=idle_timeout
    )
    client_policy(split_url(url), options)  # an unusable CA file is an error now
    return options


def _pin(text: str) -> bytes:
    """Return the 32 bytes of a pin in Base64, with or without curl's "sha256//", or in hexadecimal."""
    value = text.removeprefix("sha256//")
    try:
        raw = (
            bytes.fromhex(value) if re.fullmatch(r"[0-9a-fA-F]{64}", value) else base64.b64decode(value, validate=True)
        )
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != 32:
        raise click.UsageError(f"cannot use the pin {text!r}: expected the Base64 of a SHA-256, as in `status --json`")
    return raw
