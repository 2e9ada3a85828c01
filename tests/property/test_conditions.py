"""Preconditions: the verdict is that of RFC 9110 section 13.2.2, implemented a second time from its text."""

from __future__ import annotations

from email.utils import formatdate

from hypothesis import given
from hypothesis import strategies as st

from workers.handlers.static.conditions import (
    Conditions,
    Validators,
    Verdict,
    evaluate,
    format_date,
    parse_date,
    range_holds,
)

NOW_S = 1_700_000_000.0
_TAGS = ('"a"', '"b"', '"c,d"', '""')
_TAG = st.tuples(st.booleans(), st.sampled_from(_TAGS))
_TAG_LIST = st.one_of(st.just("*"), st.lists(_TAG, min_size=1, max_size=4))
_SECOND = st.integers(1_600_000_000, 1_600_000_003)


def _written(tags: str | list[tuple[bool, str]] | None) -> bytes | None:
    if tags is None or tags == "*":
        return tags.encode() if tags else None  # type: ignore[union-attr]
    return ", ".join(("W/" if weak else "") + tag for weak, tag in tags).encode()  # type: ignore[misc]


@given(
    if_match=st.none() | _TAG_LIST,
    if_none_match=st.none() | _TAG_LIST,
    modified_since=st.none() | _SECOND,
    unmodified_since=st.none() | _SECOND,
    etag=st.sampled_from(_TAGS),
    modified_s=_SECOND,
)
def test_preconditions_follow_rfc_9110_section_13_2_2(
    if_match: str | list[tuple[bool, str]] | None,
    if_none_match: str | list[tuple[bool, str]] | None,
    modified_since: int | None,
    unmodified_since: int | None,
    etag: str,
    modified_s: int,
) -> None:
    def steps() -> Verdict:
        # 1. If-Match, strong comparison
        if if_match is not None:
            if not (if_match == "*" or (False, etag) in if_match):
                return Verdict.FAILED
        # 2. If-Unmodified-Since only without If-Match
        elif unmodified_since is not None and not modified_s <= unmodified_since:
            return Verdict.FAILED
        # 3. If-None-Match, weak comparison
        if if_none_match is not None:
            if if_none_match == "*" or etag in [tag for _, tag in if_none_match]:
                return Verdict.NOT_MODIFIED
        # 4. If-Modified-Since only without If-None-Match
        elif modified_since is not None and modified_s <= modified_since:
            return Verdict.NOT_MODIFIED
        return Verdict.GO

    conditions = Conditions(
        if_match=_written(if_match),
        if_none_match=_written(if_none_match),
        if_modified_since=None if modified_since is None else format_date(modified_since),
        if_unmodified_since=None if unmodified_since is None else format_date(unmodified_since),
    )
    assert evaluate(conditions, Validators(etag.encode(), modified_s), NOW_S) is steps()


@given(_TAG, st.sampled_from(_TAGS))
def test_if_range_compares_strongly(asked: tuple[bool, str], etag: str) -> None:
    weak, tag = asked
    holds = range_holds(Conditions(if_range=_written([asked])), Validators(etag.encode(), 1), NOW_S)
    assert holds == (tag == etag and not weak)


@given(st.integers(0, 4_000_000_000))
def test_dates_are_written_as_the_standard_library_does_and_read_back(seconds: int) -> None:
    assert format_date(seconds) == formatdate(seconds, usegmt=True).encode()
    assert parse_date(format_date(seconds), NOW_S) == seconds


@given(st.one_of(st.binary(max_size=40), st.text(alphabet="MonTueFeb 0123456789:,-GMT", max_size=40).map(str.encode)))
def test_any_bytes_are_a_date_or_ignored(value: bytes) -> None:
    seconds = parse_date(value, NOW_S)
    assert seconds is None or isinstance(seconds, int)


@given(st.binary(max_size=200))
def test_any_field_values_give_a_verdict(value: bytes) -> None:
    conditions = Conditions(value, value, value, value, value)
    assert evaluate(conditions, Validators(b'"a"', 1), NOW_S) in Verdict
    range_holds(conditions, Validators(b'"a"', 1), NOW_S)


def test_long_list_of_entity_tags_is_parsed_in_linear_time() -> None:
    for value in (b" " * 16_000 + b"x", b'"' * 16_000, b"," * 16_000 + b"x", b'W/"a' * 4_000):
        assert evaluate(Conditions(if_match=value), Validators(b'"a"', 1), NOW_S) is Verdict.FAILED
