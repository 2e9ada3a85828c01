"""Invariant: what workers measured reaches the next supervisor; without the file nothing but counters is lost."""

from pathlib import Path

from supervisor.succession.sums_file import SAVE_S, SumsFile
from velocity_edge.status.sums import Sums

NAME = "velocity_rate_limited_total"


def counted(value: float) -> Sums:
    sums = Sums()
    sums.take(3, {NAME: [(["login"], [value])]})
    return sums


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = SumsFile(tmp_path)
    file.save(counted(4))
    assert SumsFile(tmp_path).load([3]).table() == {NAME: {("login",): [4]}}
    assert SumsFile(tmp_path).load([]).table() == {NAME: {("login",): [4]}}
    assert (tmp_path / "measured.json").stat().st_mode & 0o777 == 0o600


def test_with_a_time_it_is_written_once_in_a_while(tmp_path: Path) -> None:
    file = SumsFile(tmp_path)
    file.save(counted(1), 100.0)
    file.save(counted(2), 100.0 + SAVE_S / 2)
    assert SumsFile(tmp_path).load([]).table() == {NAME: {("login",): [1]}}
    file.save(counted(3), 100.0 + SAVE_S)
    assert SumsFile(tmp_path).load([]).table() == {NAME: {("login",): [3]}}


def test_a_file_that_cannot_be_read_or_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "measured.json").write_bytes(b"{")
    assert SumsFile(tmp_path).load([]).table() == {}
    (tmp_path / "measured.json").unlink()
    assert SumsFile(tmp_path).load([]).table() == {}
    (tmp_path / "measured.json").mkdir()
    file = SumsFile(tmp_path)
    file.save(counted(1))
    assert file.problem.startswith("cannot write")
    (tmp_path / "measured.json").rmdir()
    file.forget()
    assert not file.problem
