"""Invariant: levels hold for exactly the modules that they name; anything else is refused with a reason."""

import logging
import os
from collections.abc import Iterator

import pytest

from velocity_edge.errors import VelocityError
from velocity_edge.text.log_levels import ALIASES, LogLevels, parse_levels
from velocity_edge.text.logs import Logs, set_up


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", LogLevels()),
        ("debug", LogLevels("debug")),
        (" WARN , workers.proxy = trace ", LogLevels("warning", {"workers.proxy": "debug"})),
        ("supervisor=off,tls=error", LogLevels(None, {"supervisor": "off", "velocity_edge.tls": "error"})),
        ("velocity::proxy=debug", LogLevels(None, {"workers.proxy": "debug"})),
        ("velocity_edge::quic=info,info", LogLevels("info", {"velocity_edge.quic": "info"})),
    ],
)
def test_levels_are_read_as_rust_log_writes_them(text: str, expected: LogLevels) -> None:
    assert parse_levels(text) == expected
    assert parse_levels(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("loud", "cannot understand the log level 'loud': expected debug, info, warning, error, off"),
        ("workers=", "cannot understand the log level ''"),
        ("wrokers=debug", "cannot set the log level of 'wrokers': expected supervisor, workers,"),
        ("workers..x=debug", "cannot set the log level of 'workers..x'"),
        ("=debug", "cannot set the log level of ''"),
        (",".join(f"workers.a{n}=debug" for n in range(65)), "at most 64"),
    ],
)
def test_what_is_no_level_is_refused(text: str, reason: str) -> None:
    with pytest.raises(VelocityError) as error:
        parse_levels(text)
    assert reason in str(error.value)


def test_aliases_are_modules() -> None:
    for module in {*ALIASES.values()}:
        assert parse_levels(f"{module}=info").targets == {module: "info"}


@pytest.fixture
def logs() -> Iterator[Logs]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    fd = os.open(os.devnull, os.O_WRONLY)
    made = set_up("test", fd=fd)
    yield made
    made.use(structured=False, level="info")
    made.override(LogLevels())
    made.close()
    root.handlers[:] = before
    root.setLevel(level)
    os.close(fd)


def logged(*names: str) -> list[int]:
    return [logging.getLogger(name).getEffectiveLevel() for name in names]


def test_an_override_wins_and_leaves_nothing_behind(logs: Logs) -> None:
    names = ("workers.proxy.dns", "workers.serve", "velocity_edge.tls")
    logs.use(structured=True, level="warning", levels=parse_levels("tls=error,proxy=info"))
    assert logged(*names) == [logging.INFO, logging.WARNING, logging.ERROR]
    logs.override(parse_levels("proxy=debug"))
    assert logged(*names) == [logging.DEBUG, logging.WARNING, logging.ERROR]
    logs.override(parse_levels("debug"))
    assert logged(*names) == [logging.INFO, logging.DEBUG, logging.ERROR]
    logs.use(structured=True, level="info")  # a reload, meanwhile
    assert logged(*names) == [logging.DEBUG, logging.DEBUG, logging.DEBUG]
    logs.override(LogLevels())
    assert logged(*names) == [logging.INFO] * 3
    logs.override(parse_levels("supervisor=off"))
    assert not logging.getLogger("supervisor").isEnabledFor(logging.CRITICAL)
