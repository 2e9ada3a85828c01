"""The servers of one route in one worker: which one gets a request, who waits, and who is tried again.

A request is a `Trip`: at most one attempt at a time, each on a server that it has not tried while there is one. When no
server has room it waits (waiting_room.py). The same for requests that an engine forwards (workers/serve) and for
those that go through Python (handler.py).

A group is a resource: a reload that does not change it keeps who waits and whose turn it is.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from velocity_edge.http.requests import Outcome, UpstreamEnded
from workers.http import Request, Response
from workers.proxy.answers import answer_to, too_busy
from workers.proxy.balance import Balancer, cookie, hash_key, sticky_value
from workers.proxy.context import ProxyContext
from workers.proxy.retry import Attempt, Budget, RetryRules, wants_another
from workers.proxy.server import Server, ServerSettings
from workers.proxy.waiting_room import WaitingRoom

#: As an int: what an engine hands out.
_COMPLETE: Final = int(Outcome.COMPLETE)


@dataclass(frozen=True, slots=True)
class GroupSettings:
    """By what groups differ; equal settings are the same group."""

    #: Each server with its weight.
    servers: tuple[tuple[ServerSettings, int], ...]
    policy: str = "round_robin"
    header: bytes = b""
    cookie: bytes = b""
    sticky: bytes = b""
    retries: RetryRules = field(default_factory=RetryRules)
    budget: float = 0.2
    max_waiting: int = 256
    wait_s: float = 5.0


class Verdict(enum.Enum):
    """What there is in place of a server or an answer."""

    #: All that could get the request are busy.
    WAIT = 1
    #: Every server was tried, or none has an address.
    NONE = 2
    #: Another attempt is due.
    AGAIN = 3
    #: Nothing is left to do: the head of a response was sent, or the client is gone.
    OVER = 4


class Member:
    """A server of the group, as balance.py sees it."""

    __slots__ = ("cookie", "last_resort", "name", "server", "weight")

    def __init__(self, server: Server, weight: int) -> None:
        self.server = server
        self.name = server.name
        self.weight = max(weight, 1)
        #: Weight 0: only when no other is left.
        self.last_resort = weight == 0
        self.cookie = sticky_value(server.name).encode()

    @property
    def running(self) -> int:
        """Requests that it has now, of this worker."""
        return self.server.running


@dataclass(eq=False, slots=True)
class Trip:
    """One request on its way to a server. `key` and `sticky` are what its server is chosen by."""

    request: Request
    key: bytes | None = None
    sticky: bytes | None = None
    #: Gets the server of the next attempt, which has begun, or the answer if there is none.
    on_seat: Callable[[Member | Response], None] | None = None
    tried: list[Member] = field(default_factory=list)
    attempts: int = 0
    #: How the last attempt ended.
    last: UpstreamEnded | None = None

    @property
    def unreachable(self) -> bool:
        """Whether the last attempt found no connection: the same server would be no better now."""
        return self.last is not None and self.last.outcome in (Outcome.CONNECT_FAILED, Outcome.CONNECT_TIMEOUT)


class Group:
    """The servers of one route."""

    def __init__(self, settings: GroupSettings, servers: Sequence[Server], context: ProxyContext) -> None:
        """*servers*: those of the settings, in that order."""
        self.settings = settings
        self.members = [Member(server, weight) for server, (_, weight) in zip(servers, settings.servers, strict=True)]
        self._context = context
        self._balancer = Balancer(settings.policy, context.random)
        self._budget = Budget(settings.budget)
        self._room: WaitingRoom[Trip] = WaitingRoom(settings.max_waiting, settings.wait_s)
        self._timer: asyncio.TimerHandle | None = None
        for server in servers:
            server.on_room.append(self._on_room)

    def close(self) -> None:
        """Take no notice of the servers any more."""
        for member in self.members:
            if self._on_room in member.server.on_room:
                member.server.on_room.remove(self._on_room)
        if self._timer is not None:
            self._timer.cancel()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._room)

    def set_out(self, request: Request) -> Trip:
        """Return the trip of a request that has no attempt yet."""
        settings = self.settings
        if len(self.members) == 1:
            return Trip(request)
        field_ = request.header(settings.header) if settings.header else None
        cookies = request.header(b"cookie") if settings.cookie or settings.sticky else None
        hashed = cookie(cookies, settings.cookie) if settings.cookie else None
        address = request.client[0] if request.client is not None else None
        sticky = cookie(cookies, settings.sticky) if settings.sticky else None
        return Trip(request, hash_key(settings.policy, address, field_, hashed), sticky)

    def seat(self, trip: Trip, on_seat: Callable[[Member | Response], None]) -> None:
        """Begin the next attempt: *on_seat* gets its server, now or when there is room, or the answer instead."""
        trip.on_seat = on_seat
        self._try(trip)

    def ended(self, trip: Trip, member: Member, end: UpstreamEnded) -> Response | Verdict:
        """Take in how an attempt ended; return the answer that the client gets, AGAIN or OVER."""
        trip.last = end
        trip.request.upstream = (member.name, end, trip.attempts)
        if end.outcome == _COMPLETE:
            member.server.ended(end, tunnel=bool(trip.request.protocol))
            return Verdict.OVER
        outcome = Outcome(end.outcome)
        attempt = Attempt(
            trip.request.method, outcome, end.head_sent, end.body_sent, end.reused, bool(trip.request.protocol)
        )
        again = (
            wants_another(self.settings.retries, attempt, trip.attempts)
            and isinstance(self.choose(trip, free=False), Member)
            and self._budget.retry(self._context.clock())
        )
        if again:
            member.server.retried()
        member.server.ended(end, tunnel=bool(trip.request.protocol))
        if end.head_sent or outcome == Outcome.CLIENT_GONE:
            return Verdict.OVER
        return Verdict.AGAIN if again else answer_to(outcome)

    def give_up(self, trip: Trip) -> None:
        """The client of *trip* is gone: it does not wait any more."""
        self._room.leave(trip)
        trip.on_seat = None

    def choose(self, trip: Trip, *, free: bool = True) -> Member | Verdict:
        """Return the server of the next attempt; with *free* False, one that may be busy."""
        if free and len(self.members) == 1 and not trip.tried:
            # What the rest comes to, for most routes and requests.
            only = self.members[0]
            if not only.server.unresolved:
                return only if only.server.has_room else Verdict.WAIT
        fresh = [each for each in self.members if each not in trip.tried] if trip.tried else self.members
        if not fresh and not trip.unreachable:
            fresh = self.members
        known = [each for each in fresh if not each.server.unresolved]
        usable = [each for each in known if each.server.usable()]
        # When none is healthy, one may work all the same.
        candidates = [each for each in usable if not each.last_resort] or usable or known
        if not candidates:
            return Verdict.NONE
        if not free:
            return candidates[0]
        if trip.sticky is not None:
            for each in candidates:
                if each.cookie == trip.sticky:
                    return each if each.server.has_room else Verdict.WAIT
        with_room = [each for each in candidates if each.server.has_room]
        return self._balancer.choose(with_room, trip.key) if with_room else Verdict.WAIT

    def _try(self, trip: Trip) -> None:
        on_seat = trip.on_seat
        assert on_seat is not None
        now_s = self._context.clock()
        chosen = self.choose(trip)
        if isinstance(chosen, Member):
            trip.on_seat = None  # it leads back to the trip: a cycle would wait for the garbage collector
            if not trip.attempts:
                self._budget.attempt(now_s)
            trip.attempts += 1
            trip.tried.append(chosen)
            chosen.server.begin()
            on_seat(chosen)
        elif chosen is Verdict.NONE:
            on_seat(answer_to(Outcome(trip.last.outcome) if trip.last is not None else Outcome.CONNECT_FAILED))
        elif self._room.enter(trip, now_s):
            self._arm()
        else:
            on_seat(too_busy())

    def _on_room(self) -> None:
        for _ in range(len(self._room)):
            if not any(member.server.has_room for member in self.members):
                return
            trip = self._room.next()
            if trip is not None:
                self._try(trip)

    def _arm(self) -> None:
        due_s = self._room.next_due_s
        if due_s is not None and self._timer is None:
            delay_s = max(0.0, due_s - self._context.clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        for trip in self._room.overdue(self._context.clock()):
            if trip.on_seat is not None:
                trip.on_seat(too_busy())
        self._arm()
