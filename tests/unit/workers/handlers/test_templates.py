"""Templates show what requests bring without executing it; a page ends within bounds; errors are found at prepare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import directory, write
from velocity_edge.config.actions import TemplateAnswer
from velocity_edge.errors import ConfigError
from workers.handlers.templates import TemplateHandler
from workers.http import Request, Response


def handler(folder: Path, name: str = "a.html", **action: Any) -> TemplateHandler:
    section = TemplateAnswer.model_validate({"type": "template", "name": name, **action})
    return TemplateHandler(section, folder, {str(folder): directory(folder)}, 100)


def page(folder: Path, text: str, name: str = "a.html", **action: Any) -> Response:
    write(folder / name, text)
    fields = ((b"x-a", b"<script>"), (b"x-a", b"2"))
    request = Request(b"GET", b"a.test:443", b"/u/1?q=<b>", fields, peer=(b"\x7f\0\0\1", 1))
    request.params = {"id": "<i>"}
    response = handler(folder, name, **action)(request)
    assert isinstance(response, Response)
    return response


def test_a_page_shows_the_request_escaped(tmp_path: Path) -> None:
    text = "{{ request.method }} {{ request.host }} {{ request.path }} {{ request.query }} {{ request.client }} "
    text += "{{ request.headers['x-a'] }} {{ params.id }} {{ title }} {{ list|join('-') }}"
    made = page(tmp_path, text, context={"title": "a & b", "list": [1, 2]}, status=201, headers={"X-B": "1"})
    assert made.body == (b"GET a.test /u/1 q=&lt;b&gt; 127.0.0.1 &lt;script&gt;, 2 &lt;i&gt; a &amp; b 1-2")
    fields = dict(made.headers)
    assert (made.status, fields[b"x-b"], fields[b"content-type"]) == (201, b"1", b"text/html; charset=utf-8")


def test_text_is_not_escaped(tmp_path: Path) -> None:
    made = page(tmp_path, "{{ params.id }}", "a.txt")
    assert (made.body, dict(made.headers)[b"content-type"]) == (b"<i>", b"text/plain; charset=utf-8")


def test_what_a_request_brings_is_never_executed(tmp_path: Path) -> None:
    write(tmp_path / "a.html", "{{ params.id }}{% include 'b.html' %}")
    write(tmp_path / "b.html", "{{ request.path }}")
    request = Request(b"GET", b"a", b"/{{7*7}}")
    request.params = {"id": "{{ 7*7 }}{% for x in range(9) %}x{% endfor %}"}
    response = handler(tmp_path)(request)
    assert isinstance(response, Response)
    assert response.body == b"{{ 7*7 }}{% for x in range(9) %}x{% endfor %}/{{7*7}}"


def test_layouts_includes_and_imports_are_read_at_prepare(tmp_path: Path) -> None:
    write(tmp_path / "base" / "layout.html", "<{% block body %}{% endblock %}>")
    write(tmp_path / "macros.html", "{% macro b(x) %}[{{ x }}]{% endmacro %}")
    write(
        tmp_path / "a.html",
        "{% extends 'base/layout.html' %}{% import 'macros.html' as m %}"
        "{% block body %}{{ m.b(params.id) }}{% endblock %}",
    )
    made = handler(tmp_path)
    for path in tmp_path.rglob("*.html"):
        path.unlink()
    request = Request(b"GET", b"a", b"/")
    request.params = {"id": "1"}
    response = made(request)
    assert isinstance(response, Response)
    assert response.body == b"<[1]>"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x\n{% if %}", "a.html: line 2: "),
        ("{{ x", "a.html: line 1: "),
        ("{% include 'none.html' %}", "none.html: No such file"),
        ("{% include params.id %}", "must be written out"),
        ("{% include '../secret' %}", "../secret"),
        ("{{ x|nonsense }}", "No filter named 'nonsense'"),
        (b"\xff", "must be UTF-8"),
        ("x" * 300_000, "larger than 262144 bytes"),
    ],
)
def test_an_error_in_a_template_is_found_at_prepare(tmp_path: Path, text: str | bytes, said: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "templates").mkdir()
    write(tmp_path / "templates" / "a.html", text)
    with pytest.raises(ConfigError, match=r"^cannot use ") as caught:
        handler(tmp_path / "templates")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
        "{% for i in range(90000) %}{% set x = 1 %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{% if n < 40 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ 9 ** 99999 }}",
        "{{ '%1000000000d' * 99999 }}",
        "{% for i in range(60000) %}" + "y" * 50_000 + "{% endfor %}",
        "{{ ''.__class__.__mro__ }}",
        "{{ request.clear() }}",
        "{{ unknown }}",
    ],
)
def test_a_page_that_costs_too_much_or_leaves_its_sandbox_is_a_500_soon(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    began_s = time.process_time()
    response = page(tmp_path, text)
    assert time.process_time() - began_s < 2
    assert response.status == 500
    assert "cannot make the page a.html for /u/1: " in caplog.text


def test_a_failing_page_is_logged_once_per_second(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a.html", "{{ unknown }}")
    failing = handler(tmp_path)
    for _ in range(20):
        failing(Request(b"GET", b"a", b"/"))
    assert 1 <= len(caplog.records) <= 2
