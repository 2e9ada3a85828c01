"""Third-party clients, and what each reports about a connection: curl and openssl of the sid root, qh3.

Each returns what the client reports, never what our server reports. It is read from one stream of
the client: when two streams share a file, their lines may be mixed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import ssl
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import sid
from tests.support.debian import DebianRoot
from tests.support.waiting import poll

HYBRID_GROUPS = ("X25519MLKEM768", "SecP256r1MLKEM768", "SecP384r1MLKEM1024")


@dataclass(frozen=True, slots=True)
class CurlAnswer:
    """One transfer of a curl run."""

    status: int
    http_version: str
    #: 0 when the chain was verified.
    verify_result: int
    exit_code: int
    error: str
    n_bytes: int
    new_connections: int
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class CurlRun:
    """All transfers of one curl process, and its report of each TLS handshake."""

    answers: list[CurlAnswer]
    #: OpenSSL's names, one per connection.
    groups: list[str]
    ciphers: list[str]
    resumed: int
    log: str = field(repr=False)

    @property
    def answer(self) -> CurlAnswer:
        """The only one."""
        (answer,) = self.answers
        return answer

    @property
    def group(self) -> str:
        """Of the only connection."""
        assert len(self.groups) == 1, self.log
        return self.groups[0]


_HANDSHAKE = re.compile(r"SSL connection using (\S+) / (\S+) / (\S+) / \S+")


def curl(url: str, *options: str, ca: Path, timeout_s: float = 60, root: DebianRoot = sid.ROOT) -> CurlRun:
    """Run curl over HTTP/3 only, trusting *ca*. Curl's own choice of groups unless `--curves` is among the options.

    `{next}` among the options separates transfers of one process (curl's --next), which get the same url and defaults.
    """
    # Under /tmp, which the root shares.
    with tempfile.TemporaryDirectory(prefix="ve-curl-", dir="/tmp") as name:
        directory = Path(name)
        argv: list[str | Path] = ["curl", "--verbose", "--silent", "--show-error"]
        transfers = _split(options)
        for index, transfer in enumerate(transfers):
            argv += ["--next"] if index else []
            argv += ["--http3-only", "--cacert", ca, "--max-time", str(int(timeout_s))]
            argv += ["--output", directory / f"body{index}", "--dump-header", directory / f"head{index}"]
            argv += ["--write-out", f"%{{stderr}}\nANSWER{index} %{{json}}\n", *transfer, url]
        done = root.run(*argv, timeout_s=timeout_s + 10)
        answers = [_answer(directory, index, done.stderr) for index in range(len(transfers))]
    handshakes = _HANDSHAKE.findall(done.stderr)
    return CurlRun(
        answers=answers,
        groups=[group for _, _, group in handshakes],
        ciphers=[cipher for _, cipher, _ in handshakes],
        resumed=done.stderr.count("SSL reusing session"),
        log=done.stderr,
    )


def _split(options: tuple[str, ...]) -> list[list[str]]:
    transfers: list[list[str]] = [[]]
    for option in options:
        if option == "{next}":
            transfers.append([])
        else:
            transfers[-1].append(option)
    return transfers


def _answer(directory: Path, index: int, log: str) -> CurlAnswer:
    found = re.search(rf"^ANSWER{index} (.*)$", log, re.MULTILINE)
    assert found, log
    said: dict[str, Any] = json.loads(found[1])
    body, head = directory / f"body{index}", directory / f"head{index}"
    lines = head.read_text(errors="replace").splitlines() if head.exists() else []
    return CurlAnswer(
        status=said["http_code"],
        http_version=said["http_version"],
        verify_result=said["ssl_verify_result"],
        exit_code=said["exitcode"],
        error=said["errormsg"] or "",
        n_bytes=said["size_download"],
        new_connections=said["num_connects"],
        headers={
            name.lower(): value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon
        },
        body=body.read_bytes() if body.exists() else b"",
    )


# --- openssl s_client -quic -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpensslRun:
    """The output of `openssl s_client -quic` about its connection."""

    connected: bool
    alpn: str
    group: str
    hello_retry_request: bool
    cipher: str
    resumed: bool
    verified: bool
    log: str = field(repr=False)


def openssl(address: str, *options: str, ca: Path, alpn: str = "h3", save_session: Path | None = None) -> OpensslRun:
    """Connect with s_client and close; with *save_session* after the ticket has been saved there (under /tmp)."""
    with tempfile.TemporaryDirectory(prefix="ve-openssl-") as name:
        # stdout has the trace and what was negotiated, stderr the chain and errors. They are read by their paths: a
        # descriptor shared with the client shares its position, and a seek while it writes mixes its lines.
        output, errors = Path(name) / "stdout", Path(name) / "stderr"
        argv = sid.command(
            *("openssl", "s_client", "-quic", "-connect", address, "-alpn", alpn, "-servername", "localhost"),
            # The summary names no hybrid group; the trace shows both hellos, and a HelloRetryRequest when there is one.
            *("-CAfile", str(ca), "-verify_return_error", "-trace", *options),
            *(("-sess_out", str(save_session)) if save_session else ()),
        )
        with output.open("w") as to_output, errors.open("w") as to_errors:
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=to_output, stderr=to_errors, text=True)
        assert process.stdin

        def said() -> str:
            return output.read_text(errors="replace")

        try:
            poll(lambda: "Verify return code" in said() or process.poll() is not None, "the handshake of openssl")
            if save_session:
                # It handles its connection when there is input. The write itself fails: the stream is the server's.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write("x\n")
                    process.stdin.flush()
                poll(lambda: save_session.exists() or process.poll() is not None, "a ticket")
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(20)
        finally:
            process.kill()
            process.wait()
        return _openssl_run(said(), errors.read_text(errors="replace"))


def _openssl_run(printed: str, errors: str) -> OpensslRun:
    def said(pattern: str) -> str:
        found = re.search(pattern, printed, re.MULTILINE)
        return found[1] if found else ""

    # Key share of each ServerHello; the first of two is a HelloRetryRequest (RFC 8446 section 4.1.4).
    groups = re.findall(r"ServerHello, Length=.*?NamedGroup: (\S+)", printed, re.DOTALL)
    return OpensslRun(
        connected="CONNECTED" in printed and "Cipher is (NONE)" not in printed,
        alpn=said(r"^ALPN protocol: (\S+)"),
        group=groups[-1] if groups else "",
        hello_retry_request=len(groups) > 1,
        cipher=said(r"Cipher is (\S+)"),
        resumed=bool(re.search(r"^Reused, TLS", printed, re.MULTILINE)),
        verified="Verify return code: 0 (ok)" in printed or "Verification: OK" in printed,
        log=f"{printed}\n--- stderr ---\n{errors}",
    )


# --- qh3 (an aioquic fork with its own cryptography in Rust) ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Qh3Answer:
    """Status, body and cipher suite of one GET."""

    status: int
    body: bytes
    cipher: str


def qh3_get(host: str, port: int, path: str, *, ca: Path, server_name: str = "localhost") -> Qh3Answer:
    """GET with qh3's defaults. It accepts no leaf as a root, so the certificate is checked by its fingerprint."""
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca.read_text())).hexdigest()
    return asyncio.run(_qh3_get(host, port, path, fingerprint, server_name))


async def _qh3_get(host: str, port: int, path: str, fingerprint: str, server_name: str) -> Qh3Answer:
    from qh3.asyncio.client import connect
    from qh3.asyncio.protocol import QuicConnectionProtocol
    from qh3.h3.connection import H3_ALPN, H3Connection
    from qh3.h3.events import DataReceived, HeadersReceived
    from qh3.quic.configuration import QuicConfiguration

    class Client(QuicConnectionProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.http: H3Connection = H3Connection(self._quic)
            self.status = 0
            self.body = b""
            self.done = asyncio.get_running_loop().create_future()

        def quic_event_received(self, event: Any) -> None:
            for http_event in self.http.handle_event(event):
                if isinstance(http_event, HeadersReceived):
                    self.status = int(dict(http_event.headers)[b":status"])
                if isinstance(http_event, DataReceived):
                    self.body += http_event.data
                if getattr(http_event, "stream_ended", False) and not self.done.done():
                    self.done.set_result(None)

    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=server_name)
    configuration.verify_mode = ssl.CERT_NONE
    configuration.assert_fingerprint = fingerprint
    async with asyncio.timeout(20), connect(host, port, configuration=configuration, create_protocol=Client) as made:
        client: Any = made
        stream = client._quic.get_next_available_stream_id()
        head = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", server_name.encode())]
        client.http.send_headers(stream, [*head, (b":path", path.encode())], end_stream=True)
        client.transmit()
        await client.done
        cipher = client._quic.tls.key_schedule.cipher_suite.name
        return Qh3Answer(client.status, client.body, cipher)
