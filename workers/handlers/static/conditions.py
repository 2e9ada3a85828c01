"""Preconditions of a request (RFC 9110 section 13): whether they hold, and whether the client's copy is current.

Pure: the current time is a parameter. A malformed date counts as absent (section 13.1); a malformed list of entity tags
matches nothing.
"""

from __future__ import annotations

import re
from calendar import timegm
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

_MONTHS: Final = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_DAYS: Final = (b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun")
_TIME: Final = rb"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
#: The three formats of RFC 9110 section 5.6.7: IMF-fixdate, RFC 850, asctime.
_DATES: Final = tuple(
    re.compile(pattern)
    for pattern in (
        rb"[A-Z][a-z]{2}, (?P<day>\d\d) (?P<month>[A-Z][a-z]{2}) (?P<year>\d{4}) " + _TIME + rb" GMT",
        rb"[A-Z][a-z]{5,8}, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{2})-(?P<year>\d\d) " + _TIME + rb" GMT",
        rb"[A-Z][a-z]{2} (?P<month>[A-Z][a-z]{2}) (?P<day>[ \d]\d) " + _TIME + rb" (?P<year>\d{4})",
    )
)
#: One entity tag: W/ is optional, the opaque part has no quote and no control (section 8.8.3).
_ETAG: Final = re.compile(rb'(?P<weak>W/)?(?P<opaque>"[\x21\x23-\x7e\x80-\xff]*")')


class Verdict(Enum):
    """The result of the preconditions of a GET or HEAD."""

    GO = "go"  # 200, or 206 when there is a range and `range_holds`
    NOT_MODIFIED = "not modified"  # 304
    FAILED = "failed"  # 412


@dataclass(frozen=True, slots=True)
class Validators:
    """What identifies the selected representation: a strong entity tag; the modification time in whole seconds."""

    etag: bytes
    modified_s: int | None


@dataclass(frozen=True, slots=True)
class Conditions:
    """The precondition fields of a request, None where absent."""

    if_match: bytes | None = None
    if_none_match: bytes | None = None
    if_modified_since: bytes | None = None
    if_unmodified_since: bytes | None = None
    if_range: bytes | None = None


def evaluate(conditions: Conditions, current: Validators, now_s: float) -> Verdict:
    """Return the verdict in the order of section 13.2.2, for GET and HEAD."""
    modified_s = current.modified_s
    if conditions.if_match is not None:
        if not _listed(conditions.if_match, current.etag, weak=False):
            return Verdict.FAILED
    elif conditions.if_unmodified_since is not None and modified_s is not None:
        # 13.1.4: ignored when the value is not a date or the resource has no modification date.
        date_s = parse_date(conditions.if_unmodified_since, now_s)
        if date_s is not None and modified_s > date_s:
            return Verdict.FAILED
    if conditions.if_none_match is not None:
        if _listed(conditions.if_none_match, current.etag, weak=True):
            return Verdict.NOT_MODIFIED
    elif conditions.if_modified_since is not None and modified_s is not None:
        # 13.1.3: ignored when the value is not a date.
        date_s = parse_date(conditions.if_modified_since, now_s)
        if date_s is not None and modified_s <= date_s:
            return Verdict.NOT_MODIFIED
    return Verdict.GO


def range_holds(conditions: Conditions, current: Validators, now_s: float) -> bool:
    """Return whether a Range field applies: no If-Range, or one that names this representation (13.1.5)."""
    value = conditions.if_range
    if value is None:
        return True
    value = value.strip(b" \t")
    if _ETAG.fullmatch(value):
        return value == current.etag  # strong comparison: W/"x" is never equal
    date_s = parse_date(value, now_s)
    # A date is a strong validator only if the file is older than a second by the server's clock (8.8.2.2).
    return date_s is not None and date_s == current.modified_s and now_s - date_s >= 1


def _listed(value: bytes, etag: bytes, *, weak: bool) -> bool:
    """Return whether *etag* is in the list *value*, or that is "*". A malformed list does not match."""
    value = value.strip(b" \t")
    if value == b"*":
        return True
    found = False
    position = 0
    while position < len(value):
        match = _ETAG.match(value, position)
        if match is not None:
            found = found or (match["opaque"] == etag and (weak or not match["weak"]))
            position = match.end()
            if position < len(value) and value[position] not in b" \t,":
                return False
        elif value[position] in b" \t,":
            position += 1
        else:
            return False
    return found


def parse_date(value: bytes, now_s: float) -> int | None:
    """Return the HTTP-date *value* in seconds since 1970, None if it is malformed. *now_s* resolves two-digit years."""
    value = value.strip(b" \t")
    for form in _DATES:
        match = form.fullmatch(value)
        if match is not None:
            break
    else:
        return None
    try:
        month = _MONTHS.index(match["month"]) + 1
        year = int(match["year"])
        if len(match["year"]) == 2:
            # 5.6.7: a two-digit year that seems more than 50 years ahead is the most recent past one.
            this_year = 1970 + int(now_s // 31_556_952)
            year += this_year - this_year % 100
            if year > this_year + 50:
                year -= 100
        # second 60 is a leap second: POSIX time has none, it is the next minute's first.
        second = int(match["second"])
        moment = datetime(year, month, int(match["day"]), int(match["hour"]), int(match["minute"]), min(second, 59))  # noqa: DTZ001
    except ValueError:
        return None
    return timegm(moment.timetuple()) + (1 if second == 60 else 0) if second <= 60 else None


def format_date(seconds: int) -> bytes:
    """Return *seconds* since 1970 as an IMF-fixdate (section 5.6.7)."""
    days, rest = divmod(seconds, 86_400)
    moment = datetime.fromordinal(719_163 + days)
    return b"%b, %02d %b %04d %02d:%02d:%02d GMT" % (
        _DAYS[moment.weekday()],
        moment.day,
        _MONTHS[moment.month - 1],
        moment.year,
        rest // 3600,
        rest // 60 % 60,
        rest % 60,
    )
