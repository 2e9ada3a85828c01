"""Invariant: one event is one line, whatever its content; a slow reader costs lines, never latency."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.waiting import poll
from velocity_edge.text import lines as line_writer
from velocity_edge.text import logs

log = logging.getLogger("tests.logs")


def memory() -> int:
    """Return a descriptor that accepts any amount."""
    return os.memfd_create("log")


def text_of(fd: int) -> str:
    """Return what was written to *fd*, and close it."""
    data = os.pread(fd, 1 << 20, 0)
    os.close(fd)
    return data.decode()


class Pipe:
    """A pipe of one page that is not read until `read_until`."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)

    def fill(self) -> None:
        """Fill the pipe."""
        os.set_blocking(self.writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writer, b".")
        os.set_blocking(self.writer, True)

    def read_until(self, part: str) -> str:
        """Read until *part* was received."""
        text = ""
        while part not in text:
            text += os.read(self.reader, 65_536).decode()
        return text


@pytest.fixture(autouse=True)
def _root_logger_as_before():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level


def lines(structured: bool, *events: tuple[str, dict[str, object]]) -> list[str]:
    fd = memory()
    out = logs.set_up("worker 17", structured=structured, fd=fd)
    for text, extra in events:
        log.info(text, extra=extra)
    out.close()
    return text_of(fd).removesuffix("\n").split("\n")


def test_extra_becomes_fields_in_both_forms() -> None:
    (line,) = lines(True, ("serving", {"revision": 2, "peer": "192.0.2.1"}))
    fields = json.loads(line)
    assert fields["process"] == "worker 17"
    assert fields["message"] == "serving"
    assert (fields["revision"], fields["peer"], fields["level"]) == (2, "192.0.2.1", "info")
    (line,) = lines(False, ("serving", {"revision": 2}))
    assert line.endswith("Z info    worker 17: serving (revision=2)")


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_adds_a_line(text: str) -> None:
    text = text.replace("%", "")
    assert len(lines(False, (text, {}))) == 1
    assert len(lines(False, ("x", {"reason": text}))) == 1
    assert len(lines(True, ("x", {"reason": text}))) == 1


def test_form_and_level_change_while_running() -> None:
    fd = memory()
    out = logs.set_up("supervisor", level="warning", fd=fd)
    log.info("unseen")
    out.use(structured=True, level="debug")
    log.debug("seen")
    out.close()
    assert [json.loads(line)["message"] for line in text_of(fd).splitlines()] == ["seen"]


def test_a_traceback_is_kept() -> None:
    fd = memory()
    out = logs.set_up("supervisor", structured=True, fd=fd)
    try:
        raise RuntimeError("inside")
    except RuntimeError:
        log.exception("it broke")
    out.close()
    assert "RuntimeError: inside" in json.loads(text_of(fd))["traceback"]


def test_an_error_in_a_log_line_cannot_forge_another_line() -> None:
    fd = memory()
    out = logs.set_up("worker 17", fd=fd)
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z info    worker 17: forged\x1b[2J")
    except ValueError:
        log.exception("it broke")
    out.close()
    first, *rest = text_of(fd).splitlines()
    assert "it broke" in first
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


@given(st.text(st.characters(exclude_categories=())))
def test_json_lines_are_printable_ascii_and_lossless(text: str) -> None:
    (line,) = lines(True, ("x", {"reason": text}))
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["reason"] == text


def test_an_event_that_cannot_be_formatted_is_reported(capfd: pytest.CaptureFixture[str]) -> None:
    fd = memory()
    out = logs.set_up("w", fd=fd)
    log.info("%d", "no number")
    log.info("after")
    out.close()
    first, second = text_of(fd).splitlines()
    assert "cannot format" in first
    assert second.endswith("w: after")
    assert capfd.readouterr().err == ""


# --- a slow reader ---------------------------------------------------------------------------------------------------


def test_a_slow_reader_costs_lines_which_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_writer, "MAX_QUEUED_BYTES", 2000)
    pipe = Pipe()
    pipe.fill()
    out = logs.set_up("w", fd=pipe.writer)
    writer = out._handler.writer
    log.info("line %d", 0)
    poll(lambda: writer._in_hand, "the thread to block on the pipe")
    for i in range(1, 100):
        log.info("line %d", i)  # returns although the pipe is not read
    lost = logs.lost()
    assert 50 < lost < 100
    text = pipe.read_until("log lines were lost")
    assert writer.flush(10)
    log.info("after")
    text += pipe.read_until("after")
    out.close()
    assert text.count("w: line ") == 100 - lost
    assert f"w: {lost} log lines were lost" in text
    assert logs.lost() == 0  # of the next log


@pytest.mark.parametrize("structured", [False, True])
def test_the_exit_of_a_process_does_not_wait_for_a_slow_reader(structured: bool) -> None:
    """Regression: the thread was joined without a bound, so that stop, restart and upgrade hung."""
    pipe = Pipe()
    pipe.fill()
    out = logs.set_up("w", structured=structured, fd=pipe.writer)
    for i in range(7):
        log.info("line %d", i)
    out.close()  # the test's own time-out would end it
    # The program that this process executes next reports what was lost.
    fd = memory()
    logs.set_up("successor", structured=structured, fd=fd).close()
    assert "7 log lines were lost" in text_of(fd)
    fd = memory()
    logs.set_up("after that", fd=fd).close()
    assert text_of(fd) == ""


def test_a_closed_output_is_not_an_error_and_its_lines_are_counted() -> None:
    pipe = Pipe()
    os.close(pipe.reader)
    out = logs.set_up("w", fd=pipe.writer)
    log.info("nobody reads this")
    poll(lambda: logs.lost() == 1, "the line that is lost")
    log.info("nor this")
    out.close()
    logs.set_up("w", fd=memory()).close()


def test_a_pipe_that_became_non_blocking_loses_nothing() -> None:
    pipe = Pipe()
    pipe.fill()
    os.set_blocking(pipe.writer, False)
    out = logs.set_up("w", fd=pipe.writer)
    log.info("patience")
    assert "patience" in pipe.read_until("patience")
    out.close()


def test_without_a_thread_a_line_is_written_at_once_or_lost() -> None:
    pipe = Pipe()
    assert line_writer.say_now(pipe.writer, "first")
    assert pipe.read_until("first") == "first\n"
    pipe.fill()
    assert not line_writer.say_now(pipe.writer, "second")
    os.close(pipe.reader)
    assert not line_writer.say_now(pipe.writer, "third")
    fd = memory()
    assert line_writer.say_now(fd, "x" * 10_000)
    assert len(text_of(fd)) == 10_001
