"""Rate limits: which requests share a count, and what those over the limit get.

All workers of a node count together (velocity_edge/wire/rate_cells.py), by the rules of quota.py. A count belongs to a
rule with its name and numbers, so it goes on through reloads and restarts until the rule is changed. A refused request
costs no handler, and does not count.

The fields are those of draft-ietf-httpapi-ratelimit-headers-10: `ratelimit-policy: "name";q=LIMIT;w=SECONDS` and
`ratelimit: "name";r=REMAINING;t=SECONDS`, where t is the time until more is admitted. Several limits are members of one
list.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from math import ceil

from velocity_edge.config.middlewares.rate_limit import RateLimitRule
from velocity_edge.wire.rate_cells import RateCells
from workers.http import Answer, HeadEdit, Request
from workers.measures import Measures
from workers.middleware.addresses import one_host
from workers.middleware.quota import Quota, Verdict
from workers.middleware.refusals import refusal, too_early
from workers.pipeline import Handler, Middleware, then


class RateLimiter(Middleware):
    """Answers requests over a limit."""

    def __init__(
        self,
        name: str,
        rule: RateLimitRule,
        route: str,
        cells: RateCells,
        measures: Measures,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """*route* names the route for `key: route`. *now_ns*: as CLOCK_MONOTONIC."""
        self._quota = Quota(rule.limit, round(rule.window_s * 1000), rule.burst or 0)
        self._status = rule.status
        self._cells = cells
        self._now_ns = now_ns
        self._counter = measures.counter("velocity_rate_limited_total", (name,))
        self._evicted = measures.counter("velocity_rate_limit_evicted_total")
        kind, _, what = rule.key.partition(" ")
        scope = f"{name}\0{rule.limit}\0{self._quota.window_ms}\0{self._quota.burst}\0{rule.key}\0"
        self._key = _key_of(kind, what, (scope + route if kind == "route" else scope).encode())
        self._by_address = kind not in ("route", "global")
        self._label = b'"%b"' % name.encode()
        #: A bucket's policy says what it admits at once, and in which time that comes back.
        quota, window_s = rule.limit, rule.window_s
        if rule.burst:
            quota, window_s = rule.burst, rule.window_s * rule.burst / rule.limit
        self._policy = (b"ratelimit-policy", b"%b;q=%d;w=%d" % (self._label, quota, ceil(window_s)))

    def wrap(self, handler: Handler) -> Handler:
        """Return *handler* behind the limit."""

        def handle(request: Request) -> Answer | Awaitable[Answer]:
            if request.early and self._by_address:
                return too_early(request)
            now_us = self._now_ns() // 1000
            cells = self._cells
            verdict = cells.change(self._key(request), now_us // 1000, lambda state: self._quota.ask(state, now_us))
            if cells.evicted:
                self._evicted.add(cells.evicted)
                cells.evicted = 0
            fields = self._fields(verdict)
            if not verdict.admitted:
                self._counter.add()
                again = (b"retry-after", b"%d" % max(1, ceil(verdict.more_after_s)))
                return refusal(request, self._status, "", again, *fields)
            edit = HeadEdit(add=fields)
            return then(handler(request), lambda answer: answer.edited(edit))

        return handle

    def _fields(self, verdict: Verdict) -> tuple[tuple[bytes, bytes], ...]:
        after_s = max(1, ceil(verdict.more_after_s))
        return self._policy, (b"ratelimit", b"%b;r=%d;t=%d" % (self._label, verdict.remaining, after_s))


def _key_of(kind: str, what: str, scope: bytes) -> Callable[[Request], bytes]:
    """Return the function from a request to what it counts as."""
    if kind in ("route", "global"):
        return lambda request: scope
    name = what.lower().encode()

    def by_header(request: Request) -> bytes:
        value = request.header(name)
        return scope + b"=" + value if value is not None else scope + _address(request)

    def by_claim(request: Request) -> bytes:
        value = (request.claims or {}).get(what)
        return scope + b"=" + str(value).encode() if value is not None else scope + _address(request)

    return {"ip": lambda request: scope + _address(request), "header": by_header, "claim": by_claim}[kind]


def _address(request: Request) -> bytes:
    return b"@" + one_host(request.client)
