"""An OpenID provider on the loopback address: oidc-provider-mock, in a process of its own.

    with running_provider() as provider:
        provider.issuer                      # http://127.0.0.1:PORT
        provider.sign_in(url, "alice")       # what a person does on its page; the address to which it sends the browser
        provider.stop(); provider.start()    # down, and up again with another key

Alice is of the group `staff`; other names are nobody special.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.waiting import poll

ALICE = {"sub": "alice", "email": "alice@example.com", "groups": ["staff"]}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Provider:
    """A provider that runs, or not."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            #: Kept while it is down, so that it comes back at the same address.
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def issuer(self) -> str:
        """Its name: it follows the Host field."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Run it, with a key of its own, and wait until it answers."""
        argv = [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(self.port)]
        argv += ["--require-nonce", "true", "--user-claims", json.dumps(ALICE)]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        poll(self._answers, "a provider that answers", timeout_s=30)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.issuer}/jwks", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """End it: connections to it are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def sign_in(self, url: str, name: str) -> str:
        """Sign in as *name* on the page at *url*; return where the provider sends the browser."""
        form = urllib.parse.urlencode({"sub": name}).encode()
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            opener.open(url, form, timeout=10)
        except urllib.error.HTTPError as answer:
            if answer.code in (302, 303):
                return str(answer.headers["location"])
            raise
        raise AssertionError("the provider did not redirect")


@contextmanager
def running_provider() -> Iterator[Provider]:
    """Run a provider on a free port."""
    provider = Provider()
    provider.start()
    try:
        yield provider
    finally:
        provider.stop()
