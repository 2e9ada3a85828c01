"""Log lines of every process of a node: one event, one line, as text for people or as JSON for machines.

    2026-11-24T00:12:03.412Z info    worker 17: serving revision 2 (revision=2)
    {"ts":"2026-11-24T00:12:03.412Z","level":"info","process":"worker 17","logger":"workers.worker","message":".."}

Who logs uses the standard library: `log.info("serving revision %d", n, extra={"revision": n})`; what is in `extra`
becomes a field of the same name. Names are the same everywhere: `worker_id`, `revision`, `connection` (its connection
ID in hexadecimal), `peer`, `site`, `reason`. Line breaks and control characters in a message become escapes, so that
nobody on the network can forge a line.

`set_up` starts one thread that writes, with a bounded queue before it: a reader of our output that stalls costs lines,
which are counted and reported, never latency. Call it after a process has dropped its rights. Access logs, one line per
request, do not go this way (workers/lines.py).
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from queue import Full, Queue
from typing import Any, Final, TextIO

import orjson

#: Lines that may wait for a slow reader.
MAX_QUEUED_LINES: Final = 10_000
#: What every record has; everything else came by `extra`.
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Lines(logging.Formatter):
    """What both forms share."""

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
        try:
            return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except orjson.JSONEncodeError:
            # Half a surrogate pair (a file name that is not UTF-8), an integer of more than 64 bits.
            return json.dumps(fields, default=str)


class TextLines(_Lines):
    """A line for people; a traceback follows it on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        fields = " ".join(f"{name}={value}" for name, value in self._fields(record).items())
        line = f"{self._time(record)} {record.levelname.lower():7} {self._process}: {record.getMessage()}"
        line = _one_line(f"{line} ({fields})" if fields else line)
        trace = self._trace(record)
        return f"{line}\n{trace}" if trace else line


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Enqueue(logging.handlers.QueueHandler):
    """Formats where the event happened, drops where the queue is full."""

    queue: Queue[Any]

    def __init__(self, lines: Queue[Any]) -> None:
        super().__init__(lines)
        self.lost = 0

    def prepare(self, record: logging.LogRecord) -> Any:
        return self.format(record)

    def enqueue(self, record: Any) -> None:
        try:
            if self.lost:
                self.queue.put_nowait(f"({self.lost} log lines were lost: the reader of this output is too slow)")
                self.lost = 0
            self.queue.put_nowait(record)
        except Full:
            self.lost += 1


class _Write(logging.handlers.QueueListener):
    """The thread that writes."""

    def __init__(self, lines: Queue[Any], stream: TextIO) -> None:
        super().__init__(lines)
        self._stream = stream

    def handle(self, record: Any) -> None:
        try:
            self._stream.write(f"{record}\n")
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads us any more. Serving goes on.
            pass


class Logs:
    """The log of this process; `use` changes its form and level at any time."""

    def __init__(self, process: str, stream: TextIO | None = None) -> None:
        self._process = process
        lines: Queue[Any] = Queue(MAX_QUEUED_LINES)
        self._handler = _Enqueue(lines)
        self._writer = _Write(lines, stream or sys.stderr)

    def use(self, *, structured: bool, level: str) -> None:
        """Write JSON (*structured*) or text, from this level on: debug, info, warning or error."""
        self._handler.setFormatter((JsonLines if structured else TextLines)(self._process))
        logging.getLogger().setLevel(level.upper())

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._writer.stop()
        logging.getLogger().removeHandler(self._handler)

    def _start(self) -> None:
        root = logging.getLogger()
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        root.addHandler(self._handler)
        self._writer.start()


def set_up(process: str, *, structured: bool = False, level: str = "info", stream: TextIO | None = None) -> Logs:
    """Send everything that this process logs to *stream* (standard error) from now on.

    *process*: how it is called in each line, such as "supervisor" or "worker 17".
    """
    logs = Logs(process, stream)
    logs.use(structured=structured, level=level)
    logs._start()
    return logs
