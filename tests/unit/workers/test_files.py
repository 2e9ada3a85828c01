"""A file is read whole, through a descriptor that other workers read too, and never above its bound."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from velocity_edge.errors import ConfigError
from workers.files import read_file
from workers.handlers.static.beneath import Descriptor


def opened(path: Path) -> dict[str, Descriptor]:
    return {str(path): Descriptor(os.open(path, os.O_RDONLY))}


def test_a_file_is_read_from_its_beginning_every_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    roots = opened(path)
    os.read(roots[str(path)].fd, 4)  # another worker, with the same open file
    assert [read_file(roots, path, 10) for _ in range(2)] == [b"0123456789"] * 2


def test_a_larger_file_and_an_unknown_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    with pytest.raises(ConfigError, match="larger than 9 bytes"):
        read_file(opened(path), path, 9)
    with pytest.raises(ConfigError, match="did not come with the configuration"):
        read_file({}, path, 9)
