"""One node per engine for the tests of this folder, with two workers and a site with all kinds of files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import node
from tests.support.node import Node, running_node

BIG_BYTES = 20_000_000
#: A route that accepts uploads.
ROUTES = "[{match: {path: /upload, methods: [POST, PUT]}, action: {type: static, status: 201, body: all of it}}]"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    root.chmod(0o755)  # workers have dropped their rights
    (root / "index.html").write_text(
        "<!doctype html><meta charset=utf-8><title>velocity-edge</title>"
        "<link rel=stylesheet href=style.css><h1>It works</h1><img src=picture.png alt=picture>"
    )
    (root / "style.css").write_text("h1 { color: teal }")
    (root / "picture.png").write_bytes(png(64, 64, (0, 128, 128)))
    (root / "letters.txt").write_bytes(bytes(range(97, 123)) * 40)
    (root / "big").write_bytes(b"".join(n.to_bytes(4, "big") for n in range(BIG_BYTES // 4)))
    return root


@pytest.fixture(scope="session", params=node.ENGINES)
def edge(request: pytest.FixtureRequest, site: Path) -> Iterator[Node]:
    with running_node("--set", f"content.routes={ROUTES}", engine=request.param, workers=2, root=site) as running:
        yield running


def png(width: int, height: int, rgb: tuple[int, int, int]) -> bytes:
    """A picture of one colour (PNG, RFC 2083)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(rgb) * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
