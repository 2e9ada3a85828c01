"""Log lines of every process of a node: one event, one line, as text for people or as JSON for machines.

    2026-11-24T00:12:03.412Z info    worker 17: serving revision 2 (revision=2)
    {"ts":"2026-11-24T00:12:03.412Z","level":"info","process":"worker 17","logger":"workers.process.worker", ...}

Callers use the standard library: `log.info("serving revision %d", n, extra={"revision": n})`; keys of `extra` become
fields of the same name. Names are the same everywhere: `worker_id`, `revision`, `connection` (its connection ID in
hexadecimal), `peer`, `site`, `reason`. Line breaks and control characters in a message are escaped, so that data from
the network cannot forge a line.

`set_up` starts one thread that writes (lines.py): a slow reader of the output costs lines, which are counted and
reported, never latency. Call it after a process has dropped its privileges; before that, `begin` has lines written
at once, or not at all where that would block. Access logs, one line per request, have a writer of their own.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Final

from velocity_edge.text.json_text import json_text
from velocity_edge.text.lines import LineWriter, say_now
from velocity_edge.text.log_levels import LogLevels
from velocity_edge.text.printable import printable

#: Time for a slow reader at the exit of a process.
CLOSE_S: Final = 0.5
#: Passed across exec: the number of lines that were lost and not reported.
_LOST_BEFORE: Final = "VELOCITY_LOST_LOG_LINES"
#: Attributes of every record; all others came by `extra`.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Lines(logging.Formatter):
    """The common part of both forms."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    @staticmethod
    def _time(record: logging.LogRecord) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"

    @staticmethod
    def _fields(record: logging.LogRecord) -> dict[str, Any]:
        return {name: value for name, value in vars(record).items() if name not in _OWN}

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else ""


class JsonLines(_Lines):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        fields = {
            "ts": self._time(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields(record),
        }
        if trace := self._trace(record):
            fields["traceback"] = trace
        return json_text(fields).decode()


class TextLines(_Lines):
    """A line for people; a traceback follows it on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        fields = " ".join(f"{name}={value}" for name, value in self._fields(record).items())
        line = f"{self._time(record)} {record.levelname.lower():7} {self._process}: {record.getMessage()}"
        line = printable(f"{line} ({fields})" if fields else line)
        # Indented, so that the message of an error cannot look like a log line.
        trace = [f"    {printable(part)}" for part in self._trace(record).splitlines()]
        return "\n".join([line, *trace])


class _Enqueue(logging.Handler):
    """Formats in the caller's thread, writes in another one."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.writer = LineWriter(fd, self._lost_line, lost=_lost_before())

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one event."""
        try:
            line = self.format(record)
        except Exception as error:  # logging itself would write a traceback to standard error, which may block
            line = f"cannot format what {record.name} logs in line {record.lineno}: {type(error).__name__}"
        self.writer.write(f"{line}\n".encode(errors="backslashreplace"))

    def _lost_line(self, number: int) -> bytes:
        text = f"{number} log lines were lost: the reader of this output is too slow"
        record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None)
        return f"{self.format(record)}\n".encode()


class _Direct(logging.Handler):
    """Writes at once, or drops the line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one event."""
        if not say_now(2, self.format(record)):
            _count_as_lost(1)


class Logs:
    """The log of this process; `use` and `override` change its form and levels at any time."""

    def __init__(self, process: str, fd: int) -> None:
        self._process = process
        self._handler = _Enqueue(fd)
        self._level = "info"
        self._levels = self._overriding = LogLevels()
        #: Loggers that have a level of their own.
        self._set: set[str] = set()

    def use(self, *, structured: bool, level: str, levels: LogLevels | None = None) -> None:
        """Write JSON (*structured*) or text, from this level on: debug, info, warning, error or off.

        *levels*: those of single targets (log_levels.py).
        """
        self._handler.setFormatter((JsonLines if structured else TextLines)(self._process))
        self._level, self._levels = level, levels or LogLevels()
        self._apply()

    def override(self, levels: LogLevels) -> None:
        """Use these levels in place of those of the configuration, where both name a target; empty ones end it."""
        self._overriding = levels
        self._apply()

    def _apply(self) -> None:
        targets = {**self._levels.targets, **self._overriding.targets}
        for name in self._set - set(targets):
            logging.getLogger(name).setLevel(logging.NOTSET)
        for name, level in {**targets, "": self._overriding.default or self._levels.default or self._level}.items():
            logging.getLogger(name).setLevel(_number(level))
        self._set = set(targets)

    def close(self) -> None:
        """Write the queue, as far as the reader accepts it, and end the thread."""
        logging.getLogger().removeHandler(self._handler)
        if lost := self._handler.writer.close(CLOSE_S):
            _count_as_lost(lost)


def _number(level: str) -> int:
    return logging.CRITICAL + 1 if level == "off" else logging.getLevelNamesMapping()[level.upper()]


def _lost_before() -> int:
    text = os.environ.pop(_LOST_BEFORE, "")
    return int(text) if text.isdigit() and len(text) < 19 else 0


def _count_as_lost(lines: int) -> None:
    os.environ[_LOST_BEFORE] = str(_lost_before() + lines)


def begin(form: str) -> None:
    """Log to standard error without a thread, in the *form* of `logging.Formatter`, until `set_up`."""
    handler = _Direct()
    handler.setFormatter(_Early(form))
    _only(handler, "info")


class _Early(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(map(printable, super().format(record).splitlines()))


def _only(handler: logging.Handler, level: str) -> None:
    root = logging.getLogger()
    for other in root.handlers[:]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level.upper())


def set_up(process: str, *, structured: bool = False, level: str = "info", fd: int = 2) -> Logs:
    """Write all log lines of this process to *fd* (standard error) from now on.

    *process*: its name in each line, such as "supervisor" or "worker 17".
    """
    logs = Logs(process, fd)
    _only(logs._handler, level)
    logs.use(structured=structured, level=level)
    return logs


def flush() -> None:
    """Write the queues of this process, as far as the readers accept them, before it exits at once."""
    for writer in _writers():
        writer.flush(CLOSE_S)


def lost() -> int:
    """Return how many lines of this process were lost since `set_up`."""
    return sum(writer.lost for writer in _writers())


def _writers() -> list[LineWriter]:
    return [handler.writer for handler in logging.getLogger().handlers if isinstance(handler, _Enqueue)]
