"""Traffic for steering experiments: a C sender, a C receiver, and the socket groups between them."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support.netns import Network, inside
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.cid_codec import CidCodec

_C = Path(__file__).parent / "c"
SHORT, INITIAL, HANDSHAKE = range(3)
PORT = 443
CONFIG = CidConfig(2, bytes(range(16)), bytes(range(16, 32)))
CODEC = CidCodec([CONFIG])
#: By (kind, worker id); worker id 0 for Initials with an id that the client made up.
Counts = Counter[tuple[int, int]]
_SO_RCVBUFFORCE = 33


@functools.cache
def program(name: str) -> str:
    """Compile a program of tests/support/c, once per run."""
    directory = tempfile.TemporaryDirectory(prefix="ve-c-")
    _directories.append(directory)  # removed at exit, by its finalizer
    output = str(Path(directory.name, name))
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", output, str(_C / f"{name}.c")], check=True)
    return output


_directories: list[tempfile.TemporaryDirectory[str]] = []


def group(
    network: Network, family: int, slots: int, *, host: str | None = None, port: int = PORT
) -> list[socket.socket]:
    """Sockets of a listener in the server's namespace, one per slot, bound in order, with room for a burst."""
    members = []
    with inside(network.server):
        for _ in range(slots):
            member = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
            member.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            member.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 128 << 20)
            if family == 6:
                member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            member.bind((host or ("::" if family == 6 else "0.0.0.0"), port))
            members.append(member)
    return members


def clients(network: Network, family: int, count: int, *, port: int = PORT) -> list[socket.socket]:
    """Connected sockets in the client's namespace."""
    made = []
    with inside(network.client):
        for _ in range(count):
            client = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, socket.SOCK_DGRAM)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            client.connect((network.server_address[family], port))
            made.append(client)
    return made


class Receiver:
    """Counts what each socket gets."""

    def __init__(self, members: list[socket.socket]) -> None:
        fds = [member.fileno() for member in members]
        command = [program("receiver"), *map(str, fds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def stop(self, sent: int) -> list[Counts]:
        """Return what each slot got, once *sent* datagrams or no more arrive; none is foreign or repeated."""
        output, _ = self._process.communicate(f"{sent}\n".encode(), timeout=60)
        found = json.loads(output)
        assert (found["duplicates"], found["unmarked"]) == (0, 0), found
        return [_counts(slot) for slot in found["slots"]]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()


@contextlib.contextmanager
def receiving(members: list[socket.socket]) -> Iterator[Receiver]:
    receiver = Receiver(members)
    try:
        yield receiver
    finally:
        receiver.kill()


class Sender:
    """Sends *count* datagrams with ids of *workers* in the background."""

    def __init__(
        self, sockets: list[socket.socket], workers: list[int], count: int, per_second: int, initial_percent: int
    ) -> None:
        self._ids = tempfile.NamedTemporaryFile(prefix="ve-ids-")  # noqa: SIM115
        for worker_id in workers:
            for _ in range(2000 // len(workers)):
                self._ids.write(struct.pack("=H", worker_id) + CODEC.issue(1, worker_id))
        self._ids.flush()
        fds = [each.fileno() for each in sockets]
        command = [program("sender"), self._ids.name, str(count), str(per_second), str(initial_percent)]
        self._process = subprocess.Popen(
            [*command, *map(str, fds)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, pass_fds=fds
        )

    def finish(self) -> Counts:
        """Wait for the last datagram; return what was sent."""
        output, _ = self._process.communicate(timeout=120)
        self._ids.close()
        assert self._process.returncode == 0
        return _counts(json.loads(output)["sent"])

    def running(self) -> bool:
        return self._process.poll() is None


def _counts(by_name: dict[str, int]) -> Counts:
    return Counter({(int(kind), int(worker)): n for name, n in by_name.items() for kind, worker in [name.split(":")]})
