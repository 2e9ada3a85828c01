"""`client get URL` and `client probe URL`: an HTTP/3 client that reports what was negotiated.

The content goes to standard output or a file, the report to standard error, so that both can be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from velocity_edge.cli.output import show, show_json
from velocity_edge.cli.units import size
from velocity_edge.client.facts import HandshakeFacts, Timings
from velocity_edge.client.h3_client import connect
from velocity_edge.client.options import Options, split_url
from velocity_edge.client.probe import Probe
from velocity_edge.client.probe import probe as ask
from velocity_edge.errors import CannotDo
from velocity_edge.exits import Exit
from velocity_edge.tls import kex

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def client() -> None:
    """Fetch a URL over HTTP/3, or probe what a server supports."""


def _connecting(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on standard output."),
        click.option(
            "--timeout", type=float, default=10.0, help="Give up after this many seconds without progress (10)."
        ),
        click.option(
            "--resolve", metavar="ADDRESS[:PORT]", help="Connect to this address instead of the one in the URL."
        ),
        click.option("--groups", metavar="LIST", help="Offer only these groups, such as X25519MLKEM768,x25519."),
        click.option("--cafile", type=_FILE, help="Trust the certificates in this file (PEM)."),
        click.option("--insecure", "-k", is_flag=True, help="Do not verify the certificate."),
        click.argument("url"),
    ):
        command = option(command)
    return command


@client.command()
@_connecting
@click.option("--method", "-X", default="GET", help="GET, HEAD, POST ... (GET).")
@click.option("--header", "-H", "headers", multiple=True, metavar="NAME:VALUE", help="A request header. Repeatable.")
@click.option("--data", type=_FILE, help="Send this file as the content of the request.")
@click.option("--output", "-o", type=_FILE, help="Write the content to this file.")
@click.option("--include", "-i", is_flag=True, help="Show the headers of the response.")
@click.option("--quiet", "-q", is_flag=True, help="Print only the content.")
def get(
    url: str,
    method: str,
    headers: tuple[str, ...],
    data: Path | None,
    output: Path | None,
    include: bool,
    quiet: bool,
    as_json: bool,
    **connecting: Any,
) -> int:
    """Fetch URL over HTTP/3.

    Exit code 0: the status is below 400; 1: it is 400 or more; 3: no response.
    """
    pairs = [_header(text) for text in headers]
    body = data.read_bytes() if data else None
    coroutine = _get(url, _options(url, **connecting), method.upper(), pairs, body, _Output(output, as_json))
    status, response_headers, n_bytes, facts, timings = asyncio.run(coroutine)
    if as_json:
        found = {
            "url": url,
            "status": status,
            "headers": response_headers,
            "body_bytes": n_bytes,
            "handshake": facts.as_json(),
            "timings": timings.as_json(),
        }
        show_json(found)
    elif not quiet:
        shown = [f"{name}: {value}" for name, value in response_headers] if include else []
        show(f"{status}  {size(n_bytes)}", *shown, *_handshake_lines(facts), _timing_line(timings), err=True)
    return Exit.DONE if status < 400 else Exit.FAILED


@client.command()
@_connecting
def probe(url: str, as_json: bool, **connecting: Any) -> int:
    """Probe what a server supports: each group, certificates, HelloRetryRequest, Retry, resumption, fallback."""
    found = asyncio.run(ask(url, _options(url, **connecting)))
    if as_json:
        show_json(found.as_json())
    else:
        show(*_probe_lines(found))
    return Exit.DONE


class _Output:
    """Where the content goes: a file, standard output, or nowhere (--json without --output)."""

    def __init__(self, path: Path | None, discard: bool) -> None:
        self._path = path
        self._discard = discard and path is None

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO | None]:
        if self._path is not None:
            try:
                file = self._path.open("wb")
            except OSError as error:
                raise CannotDo(f"cannot write {self._path}: {error.strerror}") from None
            with file:
                yield file
        else:
            yield None if self._discard else sys.stdout.buffer
            sys.stdout.flush()


async def _get(
    url: str, options: Options, method: str, headers: list[tuple[str, str]], body: bytes | None, output: _Output
) -> tuple[int, list[tuple[str, str]], int, HandshakeFacts, Timings]:
    n_bytes = 0
    async with connect(url, options) as connection:
        response = await connection.request(method, headers=headers, body=body)
        with output.open() as stream:
            async for chunk in response:
                n_bytes += len(chunk)
                if stream is not None:
                    stream.write(chunk)
        return response.status, response.headers, n_bytes, connection.handshake, connection.timings


def _options(
    url: str, insecure: bool, cafile: Path | None, groups: str | None, resolve: str | None, timeout: float
) -> Options:
    return Options(
        insecure=insecure,
        cafile=cafile,
        groups=tuple(_group(name) for name in groups.split(",")) if groups else None,
        resolve=_resolve(resolve, url) if resolve else None,
        timeout_s=timeout,
    )


def _group(name: str) -> int:
    known = {group.name.lower(): group_id for group_id, group in kex.GROUPS.items()}
    if name.strip().lower() not in known:
        names = ", ".join(group.name for group in kex.GROUPS.values())
        raise click.UsageError(f"cannot offer the group {name.strip()!r}: expected one of {names}")
    return known[name.strip().lower()]


def _resolve(text: str, url: str) -> tuple[str, int]:
    """Return the address and port in "192.0.2.1:443", "[2001:db8::1]:443" or a name. Default: the port of the URL."""
    found = re.fullmatch(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?", text)
    if found is None:
        raise click.UsageError(f"cannot connect to {text!r}: expected ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT")
    return found[1] or found[2], int(found[3] or split_url(url).port or 443)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise click.UsageError(f"cannot send the header {text!r}: expected NAME:VALUE")
    return name.strip().lower(), value.strip()


def _timing_line(timings: Timings) -> str:
    parts = (("resolve", timings.resolve_s), ("handshake", timings.handshake_s), ("first byte", timings.first_byte_s))
    return "timing       " + ", ".join(f"{name} {s * 1000:.1f} ms" for name, s in (*parts, ("total", timings.total_s)))


def _handshake_lines(facts: HandshakeFacts) -> Iterator[str]:
    extras = [
        word
        for word, there in (
            ("HelloRetryRequest", facts.hello_retry_request),
            ("Retry", facts.retry),
            ("resumed", facts.resumed),
            ("0-RTT", facts.early_data),
        )
        if there
    ]
    strength = "post-quantum" if facts.post_quantum else "CLASSICAL: not safe against quantum computers"
    yield f"key exchange {facts.group}  {strength}"
    yield f"cipher       {facts.cipher}  {facts.alpn}" + (f"  ({', '.join(extras)})" if extras else "")
    for i, certificate in enumerate(facts.certificates):
        names = f" for {', '.join(certificate.names)}" if certificate.names else ""
        yield (
            f"{'certificate ' if i == 0 else '            '} {certificate.subject}{names}, "
            f"{certificate.expires_in_days} days left, signed with {certificate.signed_with}"
        )
    if facts.signature:
        yield f"signature    {facts.signature}"


def _probe_lines(found: Probe) -> Iterator[str]:
    yield f"{found.url}  {found.address}  HTTP/3 status {found.status}"
    yield from _handshake_lines(found.handshake)
    for i, (group, result) in enumerate(found.groups.items()):
        yield f"{'groups' if i == 0 else '':12} {group:20} {result}"
    prefers = {
        True: "yes (HelloRetryRequest)",
        False: "no: accepts the classical share",
        None: "unknown: the handshake failed",
    }
    yield f"prefers PQ   {prefers[found.prefers_post_quantum]}"
    yield f"resumption   {'yes' if found.resumes else 'no'}{', offers 0-RTT' if found.early_data_offered else ''}"
    yield f"token        {'NEW_TOKEN received' if found.address_token else 'none'}"
    for name, value in found.headers.items():
        yield f"{name:12} {value}"
    yield _timing_line(found.timings)
