"""Which of several servers gets a request: round robin, least connections, random two, or by a hash. Pure.

All follow the weights: a server of weight 2 gets twice the requests of one of weight 1. Hashing is by rendezvous: each
server has a number for each key, the largest wins. A server that comes or goes moves only the keys that it wins, and
the second best of a key is the same for everybody.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

_BITS: Final = 64
_MASK: Final = 2**_BITS - 1


class Candidate(Protocol):
    """A server that could get the request."""

    @property
    def name(self) -> str:
        """Its address, as configured."""

    @property
    def weight(self) -> int:
        """At least 1."""

    @property
    def running(self) -> int:
        """Requests that it has now, of this worker."""


C = TypeVar("C", bound=Candidate)


class Balancer:
    """The choices of one route in one worker."""

    def __init__(self, policy: str, random: Callable[[], float]) -> None:
        """*policy* as in config/balancing.py. *random* returns numbers from 0 to 1, not 1."""
        self._policy = policy
        self._random = random
        #: Name -> what smooth weighted round robin owes it.
        self._owed: dict[str, float] = {}
        self._seeds: dict[str, int] = {}

    def choose(self, candidates: Sequence[C], key: bytes | None) -> C:
        """Return one of *candidates* (at least one). *key*: what is hashed; None: by round robin."""
        if len(candidates) == 1:
            return candidates[0]
        if self._policy == "least_connections":
            # Equals take turns.
            least = min(_load(candidate) for candidate in candidates)
            return self._in_turn([each for each in candidates if _load(each) == least])
        if self._policy == "random_two":
            first = self._weighted(candidates)
            second = self._weighted([each for each in candidates if each is not first])
            return second if _load(second) < _load(first) else first
        if key is not None:
            return self._by_hash(candidates, key)
        return self._in_turn(candidates)

    def forget(self, names: set[str]) -> None:
        """Keep nothing of servers that are not in *names*."""
        self._owed = {name: owed for name, owed in self._owed.items() if name in names}

    def _in_turn(self, candidates: Sequence[C]) -> C:
        """Smooth weighted round robin: a server of weight 5 is not chosen five times in a row."""
        total = 0
        best = candidates[0]
        for candidate in candidates:
            total += candidate.weight
            self._owed[candidate.name] = self._owed.get(candidate.name, 0.0) + candidate.weight
            if self._owed[candidate.name] > self._owed[best.name]:
                best = candidate
        self._owed[best.name] -= total
        return best

    def _weighted(self, candidates: Sequence[C]) -> C:
        point = self._random() * sum(candidate.weight for candidate in candidates)
        for candidate in candidates:
            point -= candidate.weight
            if point < 0:
                return candidate
        return candidates[-1]

    def _by_hash(self, candidates: Sequence[C], key: bytes) -> C:
        number = _hash(key)
        return max(candidates, key=lambda each: self._score(each, number))

    def _score(self, candidate: Candidate, number: int) -> float:
        seed = self._seeds.get(candidate.name)
        if seed is None:
            seed = self._seeds[candidate.name] = _hash(candidate.name.encode())
        # Exponential with rate `weight`: the smallest of such is a server's with probability weight/total.
        uniform = (_mixed(seed ^ number) + 1) / (2**_BITS + 1)
        return candidate.weight / -math.log(uniform)


def _load(candidate: Candidate) -> float:
    return (candidate.running + 1) / candidate.weight


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def _mixed(x: int) -> int:
    """The finalizer of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def hash_key(policy: str, address: bytes | None, field: bytes | None, cookie: bytes | None) -> bytes | None:
    """Return what the policy hashes: the client's address (IPv6: its /64), the field, or the cookie."""
    if policy == "ip_hash":
        return address[:8] if address is not None and len(address) == 16 else address
    return field if policy == "header_hash" else cookie if policy == "cookie_hash" else None


def sticky_value(name: str) -> str:
    """Return the value of a sticky cookie for the server of that *name*."""
    return hashlib.blake2b(name.encode(), digest_size=9, person=b"sticky").hexdigest()


def cookie(header: bytes | None, name: bytes) -> bytes | None:
    """Return the value of the cookie of that *name* in a Cookie field; None without one."""
    if header is None:
        return None
    for pair in header.replace(b",", b";").split(b";"):
        key, equals, value = pair.strip(b" \t").partition(b"=")
        if equals and key == name:
            return value.strip(b'"')
    return None
