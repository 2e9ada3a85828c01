"""W3C Trace Context (https://www.w3.org/TR/trace-context/): which trace a request belongs to, and what upstreams get.

A client's `traceparent` is used when it is valid; otherwise a new trace begins. Upstreams get the same trace with the
id of our span, and the client's `tracestate` if that is valid, too. Whether the span is exported is decided by the
trace id and the configured share, so that all nodes decide the same for one trace; a client's `sampled` flag decides
only where clients are trusted, because anyone can set it. Pure: random bits are a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from velocity_edge.http.requests import Headers

#: Section 3.2.2. Later versions may have more after a dash (section 3.2.4).
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]*)?")
#: Section 3.3.1.3: members, with optional white space around commas.
_KEY: Final = rb"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
_MEMBER: Final = re.compile(_KEY + rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~]")
_MAX_MEMBERS: Final = 32
#: Section 3.3.1.5 asks for at least 512.
_MAX_STATE_BYTES: Final = 1024
#: The part of a trace id that must be random (level 2, section 3.2.2.3).
_RANDOM_BITS: Final = 56


#: What upstreams do not get from clients.
TRACE_FIELDS: Final = (b"traceparent", b"tracestate")


@dataclass(frozen=True, slots=True)
class TraceRule:
    """What a configuration says about traces."""

    #: Share of the traces that are exported.
    sample: float
    trust_clients: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """The span of one request. Ids in lower-case hexadecimal; `parent_id` is "" for the first span of a trace."""

    trace_id: str
    span_id: str
    parent_id: str
    sampled: bool
    #: Id of the span of an attempt to have the request answered by an upstream.
    child_id: str
    state: bytes = b""

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Return the fields for an upstream, whose spans are children of `child_id`."""
        parent = f"00-{self.trace_id}-{self.child_id}-{'01' if self.sampled else '00'}".encode()
        return [(b"traceparent", parent), *([(b"tracestate", self.state)] if self.state else [])]


def trace_of(fields: Headers, rule: TraceRule, random_bits: Callable[[int], int]) -> Trace:
    """Return the trace of a request with these fields. *random_bits*: number of bits -> an integer."""
    parents = [value for name, value in fields if name == b"traceparent"]
    found = _TRACEPARENT.fullmatch(parents[0]) if len(parents) == 1 else None
    span_id, child_id = (f"{random_bits(64) or 1:016x}" for _ in range(2))
    if found is None or not _usable(found):
        trace_id = f"{random_bits(128) or 1:032x}"
        return Trace(trace_id, span_id, "", _chosen(trace_id, rule.sample), child_id)
    trace_id, parent_id, flags = (found[n].decode() for n in (2, 3, 4))
    sampled = bool(int(flags, 16) & 1) if rule.trust_clients else _chosen(trace_id, rule.sample)
    return Trace(trace_id, span_id, parent_id, sampled, child_id, _state(fields))


def _usable(found: re.Match[bytes]) -> bool:
    version, trace_id, parent_id, more = found[1], found[2], found[3], found[5]
    if version == b"ff" or (version == b"00" and more is not None):
        return False
    return trace_id != b"0" * 32 and parent_id != b"0" * 16


def _chosen(trace_id: str, share: float) -> bool:
    return int(trace_id[-_RANDOM_BITS // 4 :], 16) < share * (1 << _RANDOM_BITS)


def _state(fields: Headers) -> bytes:
    """Return the client's tracestate; nothing of one that is invalid (section 3.3.1.2)."""
    state = b",".join(value for name, value in fields if name == b"tracestate")
    members = [member.strip(b" \t") for member in state.split(b",")]
    members = [member for member in members if member]
    if not members or len(state) > _MAX_STATE_BYTES or len(members) > _MAX_MEMBERS:
        return b""
    keys = {member.partition(b"=")[0] for member in members}
    valid = len(keys) == len(members) and all(_MEMBER.fullmatch(member) for member in members)
    return b",".join(members) if valid else b""
