"""Rules by which requests are refused (web application firewall): what is looked at, and what then happens.

All rules for the same text are first searched for as one pattern; only a hit is looked at rule by rule. The engine is
linear (config/middlewares/waf_rule.py), so that a request costs microseconds for each KiB whatever it contains. Of a
body the first bytes are looked at while they wait for the handler, which then gets all of them.

A hit is logged with the rule and the part of the request, never with what was found there: it may be a password. Rules
of one's own come first; among those that block, the first one decides.
"""

from __future__ import annotations

import html
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from pydantic_core import SchemaError, SchemaValidator

from velocity_edge.config.middlewares.waf import WafRules
from velocity_edge.config.middlewares.waf_core import CORE
from velocity_edge.config.middlewares.waf_rule import WafRule, searcher
from velocity_edge.quic.budget import PerSecond
from workers.http import Answer, Request
from workers.measures import Measures
from workers.middleware.addresses import packed
from workers.middleware.refusals import refusal
from workers.pipeline import Handler, Middleware

log = logging.getLogger(__name__)

_LOG_LINES_PER_S: Final = 5
#: Percent-encoding is removed this often: twice is a disguise, four times is none that a server undoes.
_DECODINGS: Final = 3
_ANY: Final = ("path", "query", "headers", "body")
#: Media types of bodies that are looked at.
_TEXTS: Final = (
    "text/",
    "application/json",
    "application/x-www-form-urlencoded",
    "application/xml",
    "multipart/form-data",
)
_SCORE: Final = "score"


@dataclass(frozen=True, slots=True)
class _Group:
    """The rules for one part of a request, decoded in one way."""

    part: str
    decode: tuple[str, ...]
    #: Found when one of the rules is; None: they are too large for one pattern.
    all: SchemaValidator | None
    rules: tuple[tuple[SchemaValidator, WafRule], ...]


class Firewall(Middleware):
    """Refuses requests by rules."""

    def __init__(
        self,
        section: WafRules,
        measures: Measures,
        window_bytes: int,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """*window_bytes*: what a client may send of a body before anybody reads it."""
        core = [
            rule.model_copy(update={"action": section.core_action})
            for rule in (CORE if section.core else ())
            if rule.id not in section.off
        ]
        groups = [_group(part, decode, rules) for (part, decode), rules in _by_text([*section.rules, *core]).items()]
        self._of_body = [group for group in groups if group.part == "body"] if section.body_limit_bytes else []
        self._of_head = [group for group in groups if group.part != "body"]
        self._score_limit = section.score_limit
        self._body_bytes = min(section.body_limit_bytes, window_bytes // 2)
        self._measures = measures
        self._now_ns = now_ns
        self._lines = PerSecond(_LOG_LINES_PER_S)

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* for the requests that no rule refuses."""

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            judged = _Judged()
            self._look(self._of_head, _Texts(request), request, judged)
            if judged.status is None and self._of_body and not _empty(request) and _is_text(request):
                return later(request, judged)
            return self._refuse(request, judged) if judged.status else handler(request)

        async def later(request: Request, judged: _Judged) -> Answer:
            body = await request.body.peek(self._body_bytes)
            self._look(self._of_body, _Texts(request, body), request, judged)
            if judged.status:
                return self._refuse(request, judged)
            answer = handler(request)
            return answer if isinstance(answer, Answer) else await answer

        return handle

    def _refuse(self, request: Request, judged: _Judged) -> Answer:
        assert judged.status is not None
        return refusal(request, judged.status)

    def _look(self, groups: Iterable[_Group], texts: _Texts, request: Request, judged: _Judged) -> None:
        for group in groups:
            text = texts.of(group.part, group.decode)
            if not text or (group.all is not None and not group.all.isinstance_python(text)):
                continue
            for pattern, rule in group.rules:
                if rule.id not in judged.hits and pattern.isinstance_python(text):
                    judged.hits.add(rule.id)
                    self._hit(rule, group.part, request, judged)

    def _hit(self, rule: WafRule, part: str, request: Request, judged: _Judged) -> None:
        self._measures.count("velocity_waf_total", (rule.id, rule.action))
        self._say(rule.id, rule.action, part, request)
        if rule.action == "block" and judged.status is None:
            judged.status = rule.status
        elif rule.action == "score":
            judged.score += rule.score
            if judged.score >= self._score_limit and judged.status is None:
                judged.status = 403
                self._measures.count("velocity_waf_total", (_SCORE, "block"))
                self._say(_SCORE, "block", "any", request)

    def _say(self, rule: str, action: str, part: str, request: Request) -> None:
        if self._lines.take(self._now_ns()):
            log.warning(
                "waf rule %s (%s) matched the %s of a %s for %s from %s",
                rule,
                action,
                part,
                request.method[:20].decode("latin-1"),
                request.host[:100].decode("latin-1"),
                _shown(packed(request.client)),
            )


@dataclass(slots=True)
class _Judged:
    """What the rules say about one request so far."""

    #: Ids of the rules that matched.
    hits: set[str] = field(default_factory=set)
    score: int = 0
    #: Of the refusal; None: it passes.
    status: int | None = None


class _Texts:
    """The parts of one request as text (each byte a character), decoded once for each way."""

    def __init__(self, request: Request, body: bytes = b"") -> None:
        self._request = request
        self._body = body
        self._made: dict[tuple[str, tuple[str, ...]], str] = {}

    def of(self, part: str, decode: tuple[str, ...]) -> str:
        """Return a part."""
        text = self._made.get((part, decode))
        if text is None:
            raw = self._raw(part)
            for step in decode:
                if step == "url":
                    raw = _unquoted(raw.replace(b"+", b" ") if part in ("query", "body") else raw)
            text = raw.decode("latin-1")
            for step in decode:
                text = html.unescape(text) if step == "html" and "&" in text else text
                text = text.lower() if step == "lowercase" else text
            self._made[part, decode] = text
        return text

    def _raw(self, part: str) -> bytes:
        request = self._request
        match part:
            case "path":
                return request.path
            case "query":
                return request.query
            case "method":
                return request.method
            case "body":
                return self._body
            case "headers":
                return b"\n".join(value for _, value in request.headers)
        return request.header(part.partition(":")[2].encode()) or b""


def _by_text(rules: Iterable[WafRule]) -> dict[tuple[str, tuple[str, ...]], list[WafRule]]:
    """Return the rules by the text that they look at."""
    found: dict[tuple[str, tuple[str, ...]], list[WafRule]] = {}
    for rule in rules:
        for part in _ANY if rule.match.field == "any" else (rule.match.field,):
            found.setdefault((part, tuple(rule.match.decode)), []).append(rule)
    return found


def _group(part: str, decode: tuple[str, ...], rules: Sequence[WafRule]) -> _Group:
    each = tuple((searcher(rule.match.pattern), rule) for rule in rules)
    try:
        combined = searcher("|".join(f"(?:{rule.match.pattern})" for rule in rules))
    except SchemaError:
        combined = None
    return _Group(part, decode, combined, each)


def _unquoted(raw: bytes) -> bytes:
    for _ in range(_DECODINGS):
        if b"%" not in raw:
            break
        before, raw = raw, unquote_to_bytes(raw)
        if raw == before:
            break
    return raw


def _empty(request: Request) -> bool:
    return request.body.complete and request.body.waiting_bytes == 0


def _is_text(request: Request) -> bool:
    kind = (request.header(b"content-type") or b"").decode("latin-1").lower().partition(";")[0].strip()
    return not kind or kind.startswith(_TEXTS) or kind.endswith(("+json", "+xml"))


def _shown(address: bytes) -> str:
    if len(address) not in (4, 16):
        return "-"
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
