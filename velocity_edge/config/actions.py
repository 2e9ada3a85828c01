"""`content.routes[].action`: what is done with a request, one section for each `type`.

Each has only its own keys: the model refuses a key of another type. Sites and proxies (content.py) are actions, too.
Each action becomes a handler in workers/handlers/build.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, JsonValue

from velocity_edge.config.section import Need, Problem, Section
from velocity_edge.config.upstreams import Upstream
from velocity_edge.config.values import AbsolutePath

#: RFC 9110 section 5.1: a field name is a token.
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Lengths and dates are set by the server; the others are connection-specific and malformed in HTTP/3 (RFC 9114
#: section 4.2).
_RESERVED_FIELDS: Final = frozenset(
    ("content-length", "date", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te")
)
#: Statuses of which a response has no body (RFC 9110).
_WITHOUT_BODY: Final = (204, 205, 304)

Status = Annotated[int, Field(ge=200, le=599)]


def _with_body(status: int) -> int:
    if status in _WITHOUT_BODY:
        raise ValueError(f"cannot use {status}: that status has no body (RFC 9110)")
    return status


StatusWithBody = Annotated[Status, AfterValidator(_with_body)]
Fields = dict[str, Annotated[str, Field(pattern=r"^[ -~]*$")]]


class FixedAnswer(Section):
    """`type: static`: a fixed answer, sent when the request is complete."""

    type: Literal["static"]
    """`static`"""
    status: Status = 200
    """Status of the answer."""
    body: str = ""
    """Body of the answer, as UTF-8."""
    headers: Fields = {}
    """Fields of the answer. Without a `content-type`, a body is plain text."""

    def problems(self) -> Iterator[Problem]:
        """Yield a body or a field that such an answer cannot have."""
        if self.status in _WITHOUT_BODY and self.body:
            yield ("body",), f"cannot be combined with status {self.status}: that status has no body (RFC 9110)"
        yield from _field_problems(self.headers)


class TextAnswer(Section):
    """`type: text`: plain text, in which `{name}` stands for a parameter of the route's path."""

    type: Literal["text"]
    """`text`"""
    body: str
    """The text, as UTF-8."""
    status: StatusWithBody = 200
    """Status of the answer."""
    headers: Fields = {}
    """Fields of the answer, in place of `content-type: text/plain; charset=utf-8`, and in addition."""

    def problems(self) -> Iterator[Problem]:
        """Yield a field that an answer cannot have."""
        yield from _field_problems(self.headers)


class JsonAnswer(Section):
    """`type: json`: a value as JSON, in whose texts `{name}` stands for a parameter of the route's path."""

    type: Literal["json"]
    """`json`"""
    body: JsonValue
    """Any value: mappings, lists, texts, numbers."""
    status: StatusWithBody = 200
    """Status of the answer."""
    headers: Fields = {}
    """Fields of the answer, in place of `content-type: application/json`, and in addition."""

    def problems(self) -> Iterator[Problem]:
        """Yield a field that an answer cannot have."""
        yield from _field_problems(self.headers)


class TemplateAnswer(Section):
    """`type: template`: a page that is made for each request, from a template (Jinja2) in `content.templates_dir`.

    Templates are read when the configuration is loaded, and again when a file in the directory changes. They see
    `request` (method, scheme, host, path, query, client, id, headers), `params` (of the path) and the keys of
    `context`; everything is escaped for HTML unless the name ends in `.txt`. An undefined name is a 500.
    """

    type: Literal["template"]
    """`template`"""
    name: Annotated[str, Field(pattern=r"^[!-~]([ -~]*[!-~])?$")]
    """Name of the template, such as hello.html or mail/hello.txt."""
    context: dict[str, JsonValue] = {}
    """Values that the template sees under their own names."""
    status: StatusWithBody = 200
    """Status of the answer."""
    headers: Fields = {}
    """Fields of the answer. Without a `content-type`, it follows from the name."""

    def problems(self) -> Iterator[Problem]:
        """Yield a name outside of the directory, and names that a template would not see."""
        if any(step in ("", ".", "..") for step in self.name.split("/")):
            yield ("name",), f"cannot use {self.name!r}: must be a path below templates_dir, such as mail/hello.txt"
        for key in self.context:
            if not key.isidentifier() or key in ("request", "params"):
                yield ("context",), f"cannot use {key!r}: must be a name of its own, such as title or user_name"
        yield from _field_problems(self.headers)


class FileAnswer(Section):
    """`type: file`: one file, whatever the rest of the path is. `static_file` is the same."""

    type: Literal["file", "static_file"]
    """`file`"""
    path: AbsolutePath
    """The file. A symbolic link must not lead out of its directory."""
    status: StatusWithBody = 200
    """Status of the answer; with another one than 200, ranges and preconditions are ignored."""
    headers: Fields = {}
    """Fields of the answer. Without a `content-type`, it follows from the name."""
    cache_control: str | None = Field(default=None, pattern=r"^[ -~]*$")
    """Value of the Cache-Control header."""

    def problems(self) -> Iterator[Problem]:
        """Yield a field that an answer cannot have."""
        yield from _field_problems(self.headers)

    def needs(self) -> Iterator[Need]:
        """Yield the directory of the file: another file may take its name."""
        yield Need(self.path.parent, "directory", ("path",))


class RedirectAnswer(Section):
    """`type: redirect`: sends the client to another address."""

    type: Literal["redirect"]
    """`redirect`"""
    to: Annotated[str, Field(min_length=1, max_length=2048)]
    """Where to: a path, such as /new/{id}, or a URL, such as https://www.example.com. `{name}` stands for a parameter
    of the route's path, encoded."""
    status: Literal[301, 302, 303, 307, 308] = 308
    """Status of the answer: 301, 302 and 303 let clients change the method to GET, 307 and 308 do not; 301 and 308 are
    permanent, and cached."""
    keep_path: bool = False
    """Append what follows after the path of the route."""
    keep_query: bool = True
    """Append the query of the request."""

    def problems(self) -> Iterator[Problem]:
        """Yield an address that a client could be sent anywhere with, or that is none."""
        yield from ((("to",), text) for text in _target_problems(self.to))


class PluginAction(Section):
    """`type: plugin`: a handler of an installed package (docs/plugins.md)."""

    type: Literal["plugin"]
    """`plugin`"""
    name: str
    """Name of its entry point, in the group `velocity_edge.handlers`."""
    options: dict[str, JsonValue] = {}
    """Passed to the package as they are."""


class ProxyAction(Upstream):
    """`type: proxy`: requests are forwarded to an upstream."""

    type: Literal["proxy"]
    """`proxy`"""


#: What a route can do.
Action = Annotated[
    FixedAnswer | TextAnswer | JsonAnswer | TemplateAnswer | FileAnswer | RedirectAnswer | ProxyAction | PluginAction,
    Field(discriminator="type"),
]


def _field_problems(headers: Mapping[str, str]) -> Iterator[Problem]:
    for name in headers:
        if not _FIELD_NAME.fullmatch(name):
            yield ("headers",), f"cannot use {name!r}: must be a field name such as cache-control"
        elif name.lower() in _RESERVED_FIELDS:
            yield ("headers",), f"cannot set {name!r}: the server sets it, or HTTP/3 does not allow it"


def _target_problems(to: str) -> Iterator[str]:
    if not re.fullmatch(r"[!-~]+", to) or "#" in to:
        yield f"cannot use {to!r}: must be a path or a URL of printable ASCII without a fragment"
        return
    if re.match(r"/(?![/\\])", to):
        return
    found = re.match(r"(?i)https?://([^/?]+)", to)
    if found is None:
        yield f"cannot use {to!r}: must be a path such as /new/{{id}} or a URL such as https://www.example.com/"
    elif "{" in found[1] or "@" in found[1]:
        yield f"cannot use {to!r}: the host of a redirect cannot come from the request, nor have a user name"
