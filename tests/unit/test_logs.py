"""Invariant: one event is one line, whatever is in it; a reader that stalls costs lines, never time."""

from __future__ import annotations

import io
import json
import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge import logs

log = logging.getLogger("tests.logs")


class Written(io.StringIO):
    """A stream that can be read after the log is closed."""


@pytest.fixture(autouse=True)
def _root_logger_as_before():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before, level


def lines(structured: bool, *events: tuple[str, dict[str, object]]) -> list[str]:
    stream = Written()
    out = logs.set_up("worker 17", structured=structured, stream=stream)
    for text, extra in events:
        log.info(text, extra=extra)
    out.close()
    return stream.getvalue().removesuffix("\n").split("\n")


def test_extra_becomes_fields_in_both_forms() -> None:
    (line,) = lines(True, ("serving", {"revision": 2, "peer": "192.0.2.1"}))
    fields = json.loads(line)
    assert fields["process"] == "worker 17"
    assert fields["message"] == "serving"
    assert (fields["revision"], fields["peer"], fields["level"]) == (2, "192.0.2.1", "info")
    (line,) = lines(False, ("serving", {"revision": 2}))
    assert line.endswith("Z info    worker 17: serving (revision=2)")


@given(st.text(st.characters(exclude_categories=())))
def test_no_text_makes_a_second_line(text: str) -> None:
    text = text.replace("%", "")
    assert len(lines(False, (text, {}))) == 1
    assert len(lines(False, ("x", {"reason": text}))) == 1
    assert len(lines(True, ("x", {"reason": text}))) == 1


def test_form_and_level_change_while_running() -> None:
    stream = Written()
    out = logs.set_up("supervisor", level="warning", stream=stream)
    log.info("unseen")
    out.use(structured=True, level="debug")
    log.debug("seen")
    out.close()
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["seen"]


def test_a_traceback_is_kept() -> None:
    stream = Written()
    out = logs.set_up("supervisor", structured=True, stream=stream)
    try:
        raise RuntimeError("inside")
    except RuntimeError:
        log.exception("it broke")
    out.close()
    assert "RuntimeError: inside" in json.loads(stream.getvalue())["traceback"]


def test_a_reader_that_stalls_costs_lines_and_they_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_QUEUED_LINES", 10)
    gate = threading.Event()

    class Stalled(Written):
        def write(self, text: str) -> int:
            gate.wait(10)
            return super().write(text)

    stream = Stalled()
    out = logs.set_up("w", stream=stream)
    for i in range(100):
        log.info("line %d", i)  # returns although nobody reads
    gate.set()
    out._handler.queue.join()
    log.info("after")
    out.close()
    text = stream.getvalue()
    written = text.count("w: line ")
    assert 10 <= written <= 11
    assert f"({100 - written} log lines were lost" in text
    assert text.rstrip().endswith("w: after")
