"""Invariant: every error in a configuration is reported with file, line, column, key and a "cannot" sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.config.load import load
from velocity_edge.config.tree import parse
from velocity_edge.errors import ConfigError

#: Content of the file -> the error, without the file name.
WRONG = [
    (
        "server:\n  lisen: 1",
        '2:3: server.lisen: cannot understand this key; did you mean "listen"?',
    ),
    (
        "sever:\n  a: 1",
        '1:1: sever: cannot understand this key; did you mean "server"?',
    ),
    (
        "tickets:\n  zzz: 1",
        "2:3: tickets.zzz: cannot understand this key; known here: max_age, on_damage, rotate_after, storage",
    ),
    (
        "content:\n  sites:\n    - hostname: a\n      root: x\n      inex: y",
        '5:7: content.sites[0].inex: cannot understand this key; did you mean "index"?',
    ),
    (
        "server: {a: 1}\nserver: {b: 2}",
        "2:1: server: cannot use the same key twice: it is already in line 1",
    ),
    (
        "server:\n  listen: [a]\n  listen: b",
        "3:3: server.listen: cannot use the same key twice: it is already in line 2",
    ),
    (
        "server: 5",
        "1:1: server: cannot use 5: must be a section with keys",
    ),
    (
        "server:\n  workers: two",
        "2:3: server.workers: cannot use 'two': must be a whole number",
    ),
    (
        "server:\n  workers: true",
        "2:3: server.workers: cannot use True: must be a whole number",
    ),
    (
        "server:\n  workers: 0",
        "2:3: server.workers: cannot use 0: must be 1 or more",
    ),
    (
        "server:\n  workers: 257",
        "2:3: server.workers: cannot use 257: must be 256 or less",
    ),
    (
        "server:\n  tls: {self_signed: yes}",
        "2:9: server.tls.self_signed: cannot use 'yes': must be true or false",
    ),
    (
        "server:\n  listen: [127.0.0.1:1, 5]",
        "2:25: server.listen[1]: cannot use 5: must be an IP address and a port, such as 0.0.0.0:4433 or [::]:443",
    ),
    (
        "server:\n  listen: localhost:443",
        "2:3: server.listen: cannot use 'localhost:443': must be an IP address and a port, such as "
        "0.0.0.0:4433 or [::]:443",
    ),
    (
        "server:\n  listen: 1.2.3:443",
        "2:3: server.listen: cannot use '1.2.3:443': '1.2.3' is not an IP address; must be an IP address"
        " and a port, such as 0.0.0.0:4433 or [::]:443",
    ),
    (
        "server:\n  listen: 1.2.3.4:65536",
        "2:3: server.listen: cannot use '1.2.3.4:65536': the highest port is 65535",
    ),
    (
        "server:\n  listen: '[fe80::1]:443'",
        "2:3: server.listen: cannot use '[fe80::1]:443': link-local addresses require an interface, others have "
        "none: [fe80::1%eth0]:443",
    ),
    (
        "server:\n  listen: '[2001:db8::1%eth0]:443'",
        "2:3: server.listen: cannot use '[2001:db8::1%eth0]:443': link-local addresses require an interface, others "
        "have none: [fe80::1%eth0]:443",
    ),
    (
        "server:\n  listen: []",
        "2:3: server.listen: cannot be empty",
    ),
    (
        "server:\n  listen: [" + ", ".join(f"'1.1.1.1:{port}'" for port in range(1, 10)) + "]",
        "2:3: server.listen: cannot have more than 8 entries",
    ),
    (
        "server:\n  listen: ['1.2.3.4:5', '1.2.3.4:5']",
        "2:25: server.listen[1]: cannot listen on 1.2.3.4:5 twice: listen[0] is the same",
    ),
    (
        "server:\n  profiles: {default: balancd}",
        "2:14: server.profiles.default: cannot use 'balancd': must be 'light', 'balanced' or 'secure'; "
        'did you mean "balanced"?',
    ),
    (
        "server:\n  profiles:\n    default: secure\n    permit: [light]",
        "3:5: server.profiles.default: cannot be 'secure': permit has only [light]",
    ),
    (
        "server:\n  drain: {timeout: 5x}",
        "2:11: server.drain.timeout: cannot use '5x': must be a duration such as 500ms, 5s, 2m, 1h30m or 7d",
    ),
    (
        "server:\n  limits: {send_high: -1}",
        "2:12: server.limits.send_high: cannot use -1: must be a size such as 65536, 64KiB, 1MiB or 10MB",
    ),
    (
        "server:\n  limits: {send_low: 1MiB}",
        "2:12: server.limits.send_low: cannot be as large as send_high: a writer would never be resumed",
    ),
    (
        "server:\n  tls:\n    certificate: a.pem",
        "3:5: server.tls.certificate: cannot be used alone: needs server.tls.private_key beside it",
    ),
    (
        "server:\n  tls: {certificate: a, private_key: b, self_signed: true}",
        "2:41: server.tls.self_signed: cannot be combined with server.tls.certificate: a node presents one of the two",
    ),
    (
        'server:\n  server_header: "a\\nb"',
        "2:3: server.server_header: cannot use 'a\\nb': a header may contain only printable ASCII characters",
    ),
    (
        "content:\n  sites:\n    - root: x",
        "3:7: content.sites[0].hostname: cannot be left out",
    ),
    (
        "content:\n  sites:\n    - {hostname: a b, root: x}",
        '3:8: content.sites[0].hostname: cannot use \'a b\': must be a host name, "*.example.com", or "*" '
        "for every other name",
    ),
    (
        "content:\n  sites:\n    - {hostname: a, root: x}\n    - {hostname: b, aliases: A, root: x}",
        "4:21: content.sites[1].aliases: cannot serve 'a' twice: content.sites[0] has it",
    ),
    (
        "content:\n  sites:\n    - {hostname: a, root: x, error_pages: {600: b}}",
        "3:44: content.sites[0].error_pages[600]: cannot use '600': must be 599 or less",
    ),
    (
        "dispatch:\n  deny: [192.0.2.1/24]",
        "2:10: dispatch.deny[0]: cannot use '192.0.2.1/24': 192.0.2.1/24 has host bits set; must be a "
        "network such as 192.0.2.0/24",
    ),
    (
        "dispatch:\n  mode: xpd",
        "2:3: dispatch.mode: cannot use 'xpd': must be 'auto', 'socket-classic', 'socket', 'xdp' or "
        "'xdp-cpumap'; did you mean \"xdp\"?",
    ),
    (
        "tickets:\n  max_age: 1h\n  rotate_after: 2h",
        "3:3: tickets.rotate_after: cannot be 0 or longer than tickets.max_age: keys must outlive a rotation",
    ),
    (
        "telemetry: {}\nserver: {telemetry: {}}",
        "1:1: telemetry: cannot be given twice: server.telemetry is set as well",
    ),
    (
        "server:\n  listen: [",
        "2:12: cannot read this as YAML: while parsing a flow node expected the node content, but found '<stream end>'",
    ),
    (
        "- a",
        '1:1: cannot use this file: must begin with a section such as "server:"',
    ),
    (
        "a: !python/object:os.system x",
        "1:4: a: cannot use the tag '!python/object:os.system': plain values only",
    ),
    (
        "a: &a [*a]",
        "1:4: a[0]: cannot use a reference that contains itself or grows without end",
    ),
    (
        "? [a]\n: b",
        "1:3: cannot use a list or a mapping as a key",
    ),
    (
        "a: 1\n---\nb: 1",
        "2:1: cannot read this as YAML: expected a single document in the stream but found another document",
    ),
]

WRONG += [
    (f"content:\n  routes:\n    - {{match: {match}, action: {action}}}", said)
    for match, action, said in (
        (
            "{path: api}",
            "{type: static}",
            "3:16: content.routes[0].match.path: cannot use 'api': must be a path as "
            "in a request, such as /api, /a%20b, /users/{id} or "
            "/files/{rest...}",
        ),
        (
            "{path: /a, methods: get}",
            "{type: static}",
            "3:26: content.routes[0].match.methods: cannot use 'get': "
            "must be a method in capital letters, such as GET or POST",
        ),
        (
            "{path: /a}",
            "{type: statik}",
            "3:36: content.routes[0].action.type: cannot use 'statik': must be 'static', 'text', 'json', "
            "'template', 'file', 'static_file', 'redirect', 'proxy' or 'plugin'; did you mean \"static\"?",
        ),
        (
            "{path: /a}",
            "{type: static, status: 100}",
            "3:50: content.routes[0].action.status: cannot use 100: must be 200 or more",
        ),
        (
            "{path: /a}",
            "{type: static, status: 204, body: x}",
            "3:63: content.routes[0].action.body: cannot be combined with status 204: "
            "that status has no body (RFC 9110)",
        ),
        (
            "{path: /a}",
            "{type: static, headers: {'a b': x}}",
            "3:50: content.routes[0].action.headers: cannot use 'a b': must be a field name such as cache-control",
        ),
        (
            "{path: /a}",
            "{type: static, headers: {Date: x}}",
            "3:50: content.routes[0].action.headers: cannot set 'Date': the server sets it, "
            "or HTTP/3 does not allow it",
        ),
        (
            "{path: /a}",
            "{type: static, upstream: 'http://b'}",
            "3:50: content.routes[0].action.upstream: cannot be used with type 'static': only with type 'proxy'",
        ),
        (
            "{path: /a}",
            "{type: static}}\n    - {match: {path: /a/, methods: GET}, action: {type: static}",
            "4:8: content.routes[1].match: cannot answer GET /a twice: content.routes[0] has it",
        ),
        (
            "{path: /a, methods: [GET]}",
            "{type: static}}\n    - {match: {path: /a}, action: {type: static}",
            "4:8: content.routes[1].match: cannot answer every method /a twice: content.routes[0] has it",
        ),
        (
            "{path: /a}",
            "{type: static, static: 1}",
            '3:50: content.routes[0].action.static: cannot understand this key; did you mean "status"?',
        ),
        (
            "{path: /a}",
            "{type: static, static: {a: 1}}",
            '3:50: content.routes[0].action.static: cannot understand this key; did you mean "status"?',
        ),
        (
            "{path: /a}",
            "{}",
            "3:27: content.routes[0].action.type: cannot be left out",
        ),
        (
            "{path: /a}",
            "{type: [static]}",
            "3:36: content.routes[0].action.type: cannot use this: must be 'static', 'text', 'json', "
            "'template', 'file', 'static_file', 'redirect', 'proxy' or 'plugin'; did you mean \"static\"?",
        ),
        (
            "{path: /a}",
            "{type: 5}",
            "3:36: content.routes[0].action.type: cannot use 5: must be 'static', 'text', 'json', "
            "'template', 'file', 'static_file', 'redirect', 'proxy' or 'plugin'",
        ),
        (
            "{path: /a}",
            "5",
            "3:27: content.routes[0].action: cannot use 5: must be a section with keys",
        ),
        (
            "{path: /a}",
            "{type: proxy, upstream: 'http://b', body: x}",
            "3:71: content.routes[0].action.body: cannot be used with type 'proxy': only with type 'static'",
        ),
        (
            "{path: /a}",
            "{type: proxy}",
            "3:27: content.routes[0].action.upstream: cannot be left out: must be an address such as "
            "http://127.0.0.1:8080, or use upstreams",
        ),
        (
            "{path: /}",
            "{type: static}}\n  sites:\n    - {hostname: a, root: b",
            "3:16: content.routes[0].match.path: cannot be '/' beside content.sites[0]: it would hide all of its files",
        ),
    )
]

#: Keys that the guide names and that are not implemented: refused with their position, never ignored.
NOT_BUILT = [
    (
        "content:\n  sites:\n    - {hostname: a, root: x, fallback_endpoint: y}",
        "3:30: content.sites[0].fallback_endpoint: cannot point to a fallback yet",
    ),
    (
        "server:\n  tls:\n    require_ech: true",
        "3:5: server.tls.require_ech: cannot be true yet",
    ),
    (
        "server:\n  tls:\n    client_auth: require",
        "3:5: server.tls.client_auth: cannot request client certificates yet",
    ),
    (
        "server:\n  telemetry:\n    otlp: 'x:4317'",
        "3:5: server.telemetry.otlp.endpoint: cannot export to 'x:4317': expected such as http://127.0.0.1:4318",
    ),
    (
        "telemetry:\n  otlp: {endpoint: 'http://x/?y', sample: 2}",
        "2:35: telemetry.otlp.sample: cannot use 2: must be 1.0 or less",
    ),
]


def refused(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, environment={})
    return str(caught.value).splitlines()


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_each_error_is_reported_with_its_position(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "serve.yaml"
    assert f"{file}:{said}" in refused(file, text)


@pytest.mark.parametrize(("text", "said"), NOT_BUILT)
def test_a_key_that_is_not_implemented_is_refused_with_its_position(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "serve.yaml"
    (line,) = refused(file, text)
    assert line.startswith(f"{file}:{said}")


def test_all_errors_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "tickets: {max_age: x}\nserver:\n  workers: no\n  listen: z\n  limits: {max_half_opn: 1}\n"
    places = [line.split(":")[1] for line in refused(tmp_path / "f.yaml", text)]
    assert places == ["1", "3", "4", "5"]


def test_every_error_contains_cannot(tmp_path: Path) -> None:
    for text, _ in [*WRONG, *NOT_BUILT]:
        for line in refused(tmp_path / "f.yaml", text):
            assert re.search(r": cannot ", line), line


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.yaml: cannot read the configuration: No such file"):
        load(tmp_path / "missing.yaml", environment={})
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"latin.yaml:2:4: cannot read this as YAML: must be UTF-8"):
        load(tmp_path / "latin.yaml", environment={})


def test_references_cannot_expand_without_bound() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9))
    with pytest.raises(ConfigError, match="grows without end"):
        parse(bomb, "bomb")


@given(st.text(alphabet="ab:- \n\t[]{}&*!|>'\"#,?%@1.~", max_size=60))
def test_the_parser_raises_no_other_error_for_any_text(text: str) -> None:
    try:
        parse(text, "f")
    except ConfigError:
        pass
