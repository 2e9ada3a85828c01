"""Responses of upstreams, mutated: each request ends in exactly one way, and pieces change nothing.

The engine as a whole gets mutated responses over sockets (VELOCITY_FUZZ_CASES sets how many); the parser alone gets
many more by libFuzzer, with sanitizers (tests/support/c/fuzz_upstream.c says what is checked).
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.support.upstream_world import Upstream, UpstreamWorld, read_body, read_head
from velocity_edge.http.requests import Outcome
from velocity_edge.quic.native import build

pytest.importorskip("velocity_edge.quic.native._native", reason="the native engine is not built")

REPOSITORY = Path(__file__).parents[2]
CASES = int(os.environ.get("VELOCITY_FUZZ_CASES", "60")) // 10
RESPONSES = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-kind: a\r\nconnection: keep-alive\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nx-sum: 1\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 304 Not Modified\r\netag: b\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nserver: old\r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n\x81\x05hello",
)
WORDS = (b"\r\n", b"\r\n\r\n", b"\n", b":", b" ", b"content-length: 3\r\n", b"0\r\n\r\n", b"\0", b"HTTP/1.1 200 OK\r\n")


def mutate(dice: random.Random, response: bytes) -> bytes:
    data = bytearray(response)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(5):
            case 0 if data:
                data[at % len(data)] = dice.randrange(256)
            case 1:
                data[at:at] = dice.choice(WORDS)
            case 2:
                del data[at : at + dice.randrange(8)]
            case 3:
                del data[at:]
            case _:
                data[at:at] = dice.choice(RESPONSES)
    return bytes(data)


@pytest.mark.parametrize("seed", range(CASES))
def test_mutated_responses(seed: int) -> None:
    dice = random.Random(seed)

    def script(connection: socket.socket) -> None:
        while head := read_head(connection):
            read_body(connection, head)
            response = mutate(dice, dice.choice(RESPONSES))
            middle = dice.randrange(len(response) + 1)
            connection.sendall(response[:middle])
            connection.sendall(response[middle:])
            if dice.random() < 0.8:
                connection.shutdown(socket.SHUT_RDWR)
                return

    with Upstream(script) as upstream:
        world = UpstreamWorld([upstream.address])
        client = world.client()
        for number in range(1, 25):
            method = dice.choice(("GET", "HEAD", "POST"))
            client.request(method, "/", body=bytes(dice.randrange(9000)) if method == "POST" else None)
            world.run(seconds=0.05)
            world.until(lambda number=number: len(world.app.requests) == number or client.terminated is not None)  # type: ignore[misc]
            if client.terminated is not None:  # a stock client does not like each length that is passed on
                break
            for _ in range(20):
                world.turn()
                world.run(seconds=0.02)
        world.pass_time(100)
        world.until(lambda: len(world.ends) == len(world.app.requests))
        assert len({end.stream for end in world.ends}) == len(world.ends)
        assert all(end.outcome in list(Outcome) for end in world.ends)
        world.forwarding.close(world.pool)
        assert upstream.errors == []
    assert world.counters()["upcall_errors"] == 0


def compile_fuzzer(folder: Path) -> list[str]:
    """Return the command of a fuzzer: libFuzzer, or its small replacement where clang has none."""
    libraries, sources, includes = build.llhttp()
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libssl", "libngtcp2", "libnghttp3", *libraries],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    names = ("upstream_h1_parse.c", "upstream_h1_check.c", "upstream_fields.c")
    files = [REPOSITORY / "tests/support/c/fuzz_upstream.c", *(build.HERE / name for name in names), *sources]
    common = ["-g", "-O1", "-w", "-fno-sanitize-recover=undefined", f"-I{build.HERE}", *includes]
    common += [f"-I{sysconfig.get_paths()['include']}", *map(str, files), "-o", str(folder / "fuzz"), *flags]
    clang = shutil.which("clang")
    if clang and subprocess.run([clang, "-fsanitize=fuzzer,address,undefined", *common], check=False).returncode == 0:
        return [str(folder / "fuzz"), "-max_total_time=10", "-max_len=1500", str(folder / "corpus")]
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no compiler")
    subprocess.run([gcc, "-fsanitize=address,undefined", "-DWITHOUT_LIBFUZZER", *common], check=True)
    return [str(folder / "fuzz"), *(str(file) for file in (folder / "corpus").iterdir())]


@pytest.mark.slow
def test_the_parser_with_libfuzzer(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, response in enumerate(RESPONSES):
        (corpus / str(number)).write_bytes(bytes((number, 5)) + response)
    (corpus / "websocket").write_bytes(
        b"\1\5" + RESPONSES[4].replace(b"\r\n\r\n", b"\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
    )
    done = subprocess.run(compile_fuzzer(tmp_path), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
