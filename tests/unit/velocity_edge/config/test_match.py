"""A path, a condition or an expression that could not be what was meant, or could take very long, is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velocity_edge.config.match import Match
from velocity_edge.config.patterns import parse_pattern
from velocity_edge.config.regexes import MAX_TEXT_BYTES, bounded
from velocity_edge.config.section import all_problems


def test_a_pattern_has_literal_segments_and_parameters() -> None:
    pattern = parse_pattern("/u%73ers/{id}/files/{rest...}")
    assert pattern.segments == (b"users", None, b"files")
    assert (pattern.names, pattern.rest, pattern.parameters) == ((("id", 1),), "rest", ("id", "rest"))


def test_a_final_slash_counts_only_for_an_exact_path() -> None:
    assert parse_pattern("/a/").shape == parse_pattern("/a").shape
    assert parse_pattern("/a/", exact=True).shape != parse_pattern("/a", exact=True).shape


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("api", "must be a path as in a request"),
        ("/a b", "must be a path as in a request"),
        ("/a?b", "must be a path as in a request"),
        ("/{id}/{id}", "two parameters are called 'id'"),
        ("/{rest...}/a", "{rest...} must be its last segment"),
        ("/a{id}", "a parameter is a whole segment"),
        ("/{}", "a parameter is a whole segment"),
        ("/{1}", "a parameter is a whole segment"),
        ("/a//b", "no request has the segment ''"),
        ("/a/../b", "no request has the segment '..'"),
        ("/%2e", "no request has the segment '%2e'"),
        ("/..%2f", "no request has the segment '..%2f'"),
        ("/" + "a/" * 33, "more than 32 segments"),
    ],
)
def test_a_path_that_no_request_can_have_is_refused(path: str, said: str) -> None:
    with pytest.raises(ValueError, match="cannot use") as caught:
        parse_pattern(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["a+", "(foo|bar).*", "(ab)*c", "v[0-9]+\\.[0-9]+", "(?i)abc", "", "a{1,3}b?"])
def test_usual_expressions_are_accepted(text: str) -> None:
    bounded(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(a+)+b", "a repetition inside of a repetition"),
        ("(a?b?)*", "a repetition inside of a repetition"),
        ("(aa|b)*", "alternatives inside of a repetition"),
        (".*a.*b.*c", "so many repetitions"),
        ("a?" * 30 + "a" * 30, "so many repetitions"),
        ("(a|ab)" * 30, "so many repetitions"),
        (r"(a)\1", "references and look-arounds"),
        ("(?=a)b", "references and look-arounds"),
        ("(?<!a)b", "references and look-arounds"),
        ("(", "missing )"),
        ("ü", "must be ASCII"),
        ("a" * 257, "longer than 256"),
    ],
)
def test_an_expression_that_can_take_very_long_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match="cannot use") as caught:
        bounded(text)
    assert said in str(caught.value)


PARTS = st.sampled_from(["a", "b", ".", "a*", ".*", "a?", "(", ")", "|", "+", "*", "[ab]", "{2,9}", "(?:", "a{3}"])


@given(st.lists(PARTS, max_size=9).map("".join))
def test_what_is_accepted_ends_soon(text: str) -> None:
    try:
        expression = bounded(text)
    except ValueError:
        return
    began_s = time.process_time()
    for attempt in (b"a" * MAX_TEXT_BYTES, b"ab" * (MAX_TEXT_BYTES // 2), b"a" * (MAX_TEXT_BYTES - 1) + b"c"):
        expression.fullmatch(attempt)
    assert time.process_time() - began_s < 0.5


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"x-a": {}}, "must have one of exact, regex and present"),
        ({"x-a": {"exact": "1", "present": True}}, "must have one of exact, regex and present"),
        ({"x a": "1"}, "must be a field name"),
        ({"x-a": "1", "X-A": "2"}, "cannot name a field twice"),
    ],
)
def test_conditions_that_contradict_are_refused(headers: dict[str, object], said: str) -> None:
    ((_, text),) = all_problems(Match.model_validate({"path": "/", "headers": headers}))
    assert said in text
