"""Any text loads as a configuration or is refused with a sentence and its position: never a traceback.

Where YAML reads something other than the author meant, the sentence says what to write instead.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from velocity_edge.config.load import load
from velocity_edge.config.model import Config
from velocity_edge.errors import ConfigError


def refused(directory: Path, content: str | bytes) -> str:
    """Return the error for a file, without the file name."""
    file = directory / "serve.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError) as caught:
        load(file, environment={})
    return str(caught.value).replace(f"{file}:", "")


def accepted(directory: Path, content: str | bytes) -> Config:
    file = directory / "serve.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load(file, environment={})


# --- quotes

SITE = "content:\n  sites:\n    - hostname: {}\n      root: .\n"
USER = "server:\n  user: {}\n"
LISTEN = "server:\n  listen: {}\n"
MEANING = 'cannot use {0} without quotes: {1!r} has a meaning of its own in YAML; expected "{0}"'


@pytest.mark.parametrize(
    ("template", "value", "place"),
    [
        (SITE, "*.example.com", "3:17"),
        (SITE, "*", "3:17"),
        (LISTEN, "[::]:443", "2:11"),
        (LISTEN, "[::1]:443", "2:11"),
        (LISTEN, "[2001:db8::1]:443", "2:11"),
        (USER, "@nobody", "2:9"),
        (USER, "%nobody", "2:9"),
        (USER, "`nobody`", "2:9"),
        (USER, "|nobody", "2:9"),
        (USER, ">nobody", "2:9"),
    ],
)
def test_a_value_that_needs_quotes_is_refused_with_the_quoted_form(
    tmp_path: Path, template: str, value: str, place: str
) -> None:
    assert refused(tmp_path, template.format(value)) == f"{place}: {MEANING.format(value, value[0])}"
    # The quoted form is accepted.
    accepted(tmp_path, template.format(f'"{value}"'))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("server:\n  listen:\n    - [::]:443\n    - 0.0.0.0:443\n", f"3:7: {MEANING.format('[::]:443', '[')}"),
        ("server:\n  listen: [[::]:443, 0.0.0.0:443]\n", f"2:12: {MEANING.format('[::]:443', '[')}"),
        ("server:\n  listen: ['[::]:443', [::1]:443]\n", f"2:24: {MEANING.format('[::1]:443', '[')}"),
        (SITE.format("a\n      aliases: [b, *.example.com]"), f"4:20: {MEANING.format('*.example.com', '*')}"),
        (USER.format("&nobody"), '2:9: server.user: cannot use &nobody without quotes: expected "&nobody"'),
        (USER.format("!nobody"), "2:9: server.user: cannot use the tag '!nobody': plain values only"),
        (USER.format("a: b"), '2:10: cannot use a colon here: a value with ": " in it needs quotes, and a key its own'),
        ("server:\n\tworkers: 1\n", "2:1: cannot use a tab: YAML indents with spaces"),
        ("server:\n  workers:\t1\n", "2:11: cannot use a tab: YAML indents with spaces"),
    ],
)
def test_missing_quotes_in_lists_tags_colons_and_tabs_are_named(tmp_path: Path, text: str, said: str) -> None:
    assert refused(tmp_path, text).startswith(said)


# --- numbers, words, dates


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("08", "cannot use '08': YAML 1.1 and 1.2 read it as different numbers: expected 8"),
        ("0010", "cannot use '0010': YAML 1.1 and 1.2 read it as different numbers: expected 10, or 0o10"),
        ("1_0", "cannot use '1_0': YAML 1.1 and 1.2 read it as different numbers: expected 10"),
        (".inf", "cannot use '.inf': must be a number of 64 bits"),
        (".nan", "cannot use '.nan': must be a number of 64 bits"),
        ("1e999", "cannot use '1e999': must be a number of 64 bits"),
        ("99999999999999999999", "cannot use '99999999999999999999': must be a number of 64 bits"),
        ("9" * 5000, f"cannot use '{'9' * 60}...'"),
        ("1:30", "cannot use '1:30': must be a whole number"),
        ("2001-01-01", "cannot use '2001-01-01': must be a whole number"),
        ("!!bool abc", "cannot use 'abc'"),
        ("!!int ''", "cannot use ''"),
        ("!!int [1]", "cannot use the tag"),
        ("!!binary aGk=", "cannot use the tag"),
        ("!!python/object/apply:os.system [id]", "cannot use the tag"),
        ('"\\ud800"', "cannot use '\\ud800': half of a surrogate pair"),
    ],
)
def test_a_value_that_yaml_versions_read_differently_is_refused(tmp_path: Path, value: str, said: str) -> None:
    text = refused(tmp_path, f"server:\n  workers: {value}\n")
    assert re.match(r"2:\d+: server.workers: cannot", text), text
    assert said in text


@pytest.mark.parametrize(("value", "workers"), [("8", 8), ("+8", 8), ("0x10", 16), ("0o10", 8)])
def test_unambiguous_numbers_are_accepted(tmp_path: Path, value: str, workers: int) -> None:
    assert accepted(tmp_path, f"server:\n  workers: {value}\n").server.workers == workers


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "y", "1", "12:30:00"])
def test_only_true_and_false_are_booleans(tmp_path: Path, word: str) -> None:
    assert "must be true or false" in refused(tmp_path, f"server:\n  tls: {{self_signed: {word}}}\n")


def test_an_error_status_with_leading_zeros_is_refused(tmp_path: Path) -> None:
    pages = "content: {sites: [{hostname: a, root: ., error_pages: {0404: x, 404: y}}]}\n"
    assert "cannot use '0404'" in refused(tmp_path, pages)


@pytest.mark.parametrize("key", ["2001-01-01", "~", "yes", "1.5", "<<", '""'])
def test_keys_are_text(tmp_path: Path, key: str) -> None:
    assert f"{key.strip(chr(34))}: cannot understand this key" in refused(tmp_path, f"{key}: 1\n")


# --- bytes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("server: {}\n".encode("utf-16"), "1:1: cannot read this as YAML: must be UTF-8, not UTF-16"),
        ("server: {}\n".encode("utf-16-le"), "1:2: cannot use the character U+0000: must be plain text"),
        (b"server:\n  user: caf\xe9\n", "2:12: cannot read this as YAML: must be UTF-8"),
        (b"server:\n  user: a\0b\n", "2:10: cannot use the character U+0000: must be plain text"),
        (b"server:\n  user: a\x1b[31mb\n", "2:10: cannot use the character U+001B: must be plain text"),
        (b"#" * (5 * 2**20), " cannot read the configuration: larger than 4194304 bytes"),
    ],
)
def test_bytes_that_are_not_text_are_refused_with_their_position(tmp_path: Path, content: bytes, said: str) -> None:
    assert refused(tmp_path, content) == said


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfserver:\n  workers: 3\n", b"server:\r\n  workers: 3\r\n"])
def test_a_byte_order_mark_and_crlf_are_accepted(tmp_path: Path, content: bytes) -> None:
    assert accepted(tmp_path, content).server.workers == 3


# --- size and depth


def test_references_cannot_expand_a_small_file_without_bound(tmp_path: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for name, before in zip("bcdefghij", "abcdefghi", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    began_s = time.process_time()
    assert "cannot use a reference that contains itself or grows without end" in refused(tmp_path, bomb)
    assert time.process_time() - began_s < 20.0
    assert "a reference that contains itself" in refused(tmp_path, "a: &a [*a]\n")


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + "{a: " * 3000 + "}" * 3000,
        "\n".join(" " * depth + "a:" for depth in range(2000)),
        "a: " + "[" * 60 + "]" * 60,
    ],
)
def test_too_deep_nesting_is_refused_with_its_position(tmp_path: Path, text: str) -> None:
    assert re.match(r"\d+:\d+: cannot use this: nested deeper than 50 levels", refused(tmp_path, text))


# --- listeners


@pytest.mark.parametrize(
    ("listeners", "said"),
    [
        (
            ["0.0.0.0:443", "127.0.0.1:443"],
            "cannot listen on 127.0.0.1:443 beside listen[0], 0.0.0.0:443: 0.0.0.0:443 covers 127.0.0.1",
        ),
        (
            ["127.0.0.1:443", "0.0.0.0:443"],
            "cannot listen on 0.0.0.0:443 beside listen[0], 127.0.0.1:443: 0.0.0.0:443 covers 127.0.0.1",
        ),
        (["[::]:443", "[::1]:443"], "cannot listen on [::1]:443 beside listen[0], [::]:443: [::]:443 covers ::1"),
        (["[::1]:443", "[0:0::1]:443"], "cannot listen on [::1]:443 twice: listen[0] is the same"),
        (["127.0.0.1:443", "127.0.0.1:00443"], "cannot listen on 127.0.0.1:443 twice: listen[0] is the same"),
        (
            ["0.0.0.0:444", "[::ffff:127.0.0.1]:443"],
            "cannot listen on [::ffff:127.0.0.1]:443: it is IPv4-mapped; expected 127.0.0.1:443",
        ),
    ],
)
def test_listeners_that_conflict_are_refused(tmp_path: Path, listeners: list[str], said: str) -> None:
    text = "server:\n  listen:\n" + "".join(f'    - "{listener}"\n' for listener in listeners)
    assert refused(tmp_path, text) == f"4:7: server.listen[1]: {said}"


@pytest.mark.parametrize(
    "listeners",
    [
        ["[::]:443", "0.0.0.0:443"],
        ["[::]:443", "127.0.0.1:443"],
        ["127.0.0.1:443", "127.0.0.2:443", "[::1]:443"],
        ["0.0.0.0:443", "127.0.0.1:444"],
        ["0.0.0.0:0", "127.0.0.1:0", "127.0.0.1:0"],
    ],
)
def test_listeners_that_do_not_conflict_are_accepted(tmp_path: Path, listeners: list[str]) -> None:
    accepted(tmp_path, f"server:\n  listen: {listeners!r}\n")


def test_metrics_may_use_the_port_of_a_listener_because_they_use_tcp(tmp_path: Path) -> None:
    accepted(tmp_path, "server:\n  listen: 127.0.0.1:443\n  telemetry: {metrics_listen: 127.0.0.1:443}\n")


def test_a_home_directory_of_an_unknown_user_is_refused(tmp_path: Path) -> None:
    text = refused(tmp_path, SITE.format("a").replace("root: .", "root: ~nobody-of-that-name/x"))
    assert text == "4:7: content.sites[0].root: cannot use '~nobody-of-that-name/x': this machine has no such user"


# --- anything

_KEYS = ["server", "listen", "workers", "content", "sites", "hostname", "root", "tickets", "limits", "tls", "routes"]
_PIECES = st.one_of(
    st.sampled_from(
        [": ", ":\n", "\n", "\n  ", "\n    - ", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "!!int ", "!x ", "'", '"']
    ),
    st.sampled_from(["|\n ", ">-\n ", "? ", "#", "%YAML 1.1\n---\n", "---\n", "...\n", "\t", "<<", "~", "[::]:443"]),
    st.sampled_from(["0x1g", "08", "1_0", ".inf", "-.inf", "1e400", "12:30:00", "2001-99-99", "yes", "=", "\\ud800"]),
    st.sampled_from(_KEYS),
    st.text(max_size=8),
)


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(st.lists(_PIECES, max_size=30).map("".join), st.text(), st.binary().map(lambda b: b.decode("latin-1")))
)
@example("&a : &a ")
@example("a: !!bool x")
@example("a: !!float ''")
@example("a: !!timestamp 2001-99-99")
@example("? [a]\n: b")
@example("{0: {}}")
@example("server: {workers: !!int 0b2}")
def test_no_text_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        config = load(file, environment={})
    except ConfigError as error:
        for line in str(error).splitlines():
            assert "cannot" in line
    else:
        assert config.server.workers is None or not math.isnan(config.server.workers)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    with contextlib.suppress(ConfigError):
        load(file, environment={})


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.sampled_from([*_KEYS, "x"]), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_no_value_in_place_of_another_is_a_traceback(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    """Flags and variables can pass types that a file would not have there."""
    for key in ("server", "server.listen", "content.sites", "content.routes", "tickets.storage", "server.limits"):
        with contextlib.suppress(ConfigError):
            load(None, {key: value}, environment={})
