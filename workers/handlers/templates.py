"""`action: {type: template}`: pages from templates in `content.templates_dir`.

Templates are read and compiled when a revision is prepared, through the descriptor of the directory: a template with an
error, or one that includes a missing one, is found before the revision is used. Afterwards no file is read. What a page
may cost is bounded in template_sandbox.py; one that fails is a 500, and the log has the reason once per second.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import stat
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final

from jinja2 import BaseLoader, Environment, Template, TemplateError, TemplateNotFound, TemplateSyntaxError, meta

from velocity_edge.config.actions import TemplateAnswer
from velocity_edge.errors import ConfigError
from velocity_edge.http.requests import OpenFile
from velocity_edge.quic.budget import PerSecond
from workers.files import Roots
from workers.handlers.fixed import FixedHandler, encoded
from workers.handlers.static.beneath import open_beneath
from workers.handlers.static.mime import media_type
from workers.handlers.template_sandbox import MAX_OUTPUT_CHARS, Sandbox, Steps, TooMuch
from workers.http import Request, Response, plain

log = logging.getLogger(__name__)

_MAX_TEMPLATE_BYTES: Final = 256 * 1024
#: All that one page is made of, with what it includes: its names are followed to here.
_MAX_TEMPLATES: Final = 256


class _Directory(BaseLoader):
    """Reads templates below a directory, until it is closed."""

    def __init__(self, root: OpenFile, name: str) -> None:
        self._root: OpenFile | None = root
        self._name = name
        self.sources: dict[str, str] = {}

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, None]:
        """Return a template. Raises `ConfigError`, or `TemplateNotFound` once closed."""
        if self._root is None:
            raise TemplateNotFound(template)
        place = f"{self._name}/{template}"
        if len(self.sources) >= _MAX_TEMPLATES:
            raise ConfigError(f"cannot use {place}: a page can be made of at most {_MAX_TEMPLATES} templates")
        try:
            fd = open_beneath(self._root.fd, os.fsencode(template))
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ConfigError(f"cannot use {place}: must be a file")
                data = os.pread(fd, _MAX_TEMPLATE_BYTES + 1, 0)
            finally:
                os.close(fd)
            text = data.decode()
        except OSError as error:
            raise ConfigError(f"cannot use {place}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"cannot use {place}: must be UTF-8") from None
        if len(data) > _MAX_TEMPLATE_BYTES:
            raise ConfigError(f"cannot use {place}: larger than {_MAX_TEMPLATE_BYTES} bytes")
        self.sources[template] = text
        return text, None, None

    def close(self) -> None:
        """Read no file any more."""
        self._root = None


class TemplateHandler:
    """A `Handler` that makes a page for each request."""

    def __init__(self, action: TemplateAnswer, directory: Path, roots: Roots, max_body_bytes: int) -> None:
        """*directory*: `content.templates_dir`. *max_body_bytes*: bound of request bodies. Raises `ConfigError`."""
        root = roots.get(os.fspath(directory))
        if root is None:
            raise ConfigError(f"cannot read {directory}: it did not come with the configuration")
        loader = _Directory(root, os.fspath(directory))
        self._name = action.name
        self._sandbox = Sandbox(loader)
        self._template = _compiled(self._sandbox, loader, action.name, os.fspath(directory))
        loader.close()
        self._chars = sum(map(len, loader.sources.values()))
        self._context = action.context
        self._status = action.status
        self._max_body_bytes = max_body_bytes
        self._lines = PerSecond(1)
        self._headers = encoded(action.headers)
        if all(name != b"content-type" for name, _ in self._headers):
            self._headers = (*self._headers, (b"content-type", media_type(os.fsencode(action.name))))

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Answer with the page, when the request's body is complete."""
        try:
            body = self._page(request)
        except MemoryError:
            raise
        except Exception as error:
            if self._lines.take(time.monotonic_ns()):
                path = request.path[:200].decode("latin-1")
                log.error("cannot make the page %s for %s: %s: %s", self._name, path, type(error).__name__, error)
            return plain(500)
        return FixedHandler(self._status, self._headers, body, self._max_body_bytes)(request)

    def _page(self, request: Request) -> bytes:
        self._sandbox.steps = Steps(self._chars)
        values = {**self._context, "request": _request(request), "params": dict(request.params)}
        parts: list[str] = []
        left = MAX_OUTPUT_CHARS
        for part in self._template.generate(values):
            left -= len(part)
            if left < 0:
                raise TooMuch(f"a page of more than {MAX_OUTPUT_CHARS} characters")
            parts.append(part)
        return "".join(parts).encode(errors="replace")


def _compiled(sandbox: Sandbox, loader: _Directory, name: str, directory: str) -> Template:
    """Return the template, when it and all that it names are compiled. Raises `ConfigError`."""
    todo = [name]
    try:
        while todo:
            found = todo.pop()
            if found in loader.sources:
                continue
            sandbox.get_template(found)
            named = list(meta.find_referenced_templates(sandbox.parse(loader.sources[found])))
            if None in named:
                raise ConfigError(f"cannot use {directory}/{found}: the name of what it includes must be written out")
            todo += [one for one in named if one is not None]
        return sandbox.get_template(name)
    except TemplateSyntaxError as error:
        raise ConfigError(
            f"cannot use {directory}/{error.name or name}: line {error.lineno}: {error.message}"
        ) from None
    except (TemplateError, RecursionError) as error:
        raise ConfigError(f"cannot use {directory}/{name}: {error}") from None


def _request(request: Request) -> dict[str, Any]:
    """Return what templates see of a request. Fields of one name are joined as in RFC 9110 section 5.3."""
    fields: dict[str, str] = {}
    for name, value in request.headers:
        key, text = name.decode("latin-1"), value.decode(errors="replace")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    client = request.client
    return {
        "method": request.method.decode("latin-1"),
        "scheme": request.scheme.decode("latin-1"),
        "host": request.host.decode("latin-1"),
        "path": request.path.decode(errors="replace"),
        "query": request.query.decode(errors="replace"),
        "client": str(ipaddress.ip_address(client[0])) if client is not None else "",
        "id": request.id.decode("latin-1"),
        "headers": fields,
    }
