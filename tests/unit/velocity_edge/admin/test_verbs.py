"""Invariant: every verb of the table has a JSON form that comes back as it was, and refuses what it does not know."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from velocity_edge.admin import answers, requests
from velocity_edge.admin.answers import Answer, Facts
from velocity_edge.admin.json_form import answer_line, parse_answer, parse_request, request_body
from velocity_edge.admin.requests import BadRequest, Request
from velocity_edge.admin.verbs import VERBS, Verb, verb_of

#: One body for each verb with every field that goes together. The wire format: it must not change.
BODIES: dict[str, dict[str, Any]] = {
    "quiesce": {
        "mode": "discourage",
        "announce_s": 1.0,
        "spread_s": 2.5,
        "deadline_s": 3.0,
        "wait": True,
        "below": 5.0,
        "timeout_s": 60.0,
    },
    "drain": {
        "settle_s": 1.0,
        "settle_below_per_s": 0.5,
        "announce_max_s": 2.0,
        "spread_s": 3.0,
        "max_wait_s": 4.0,
        "attach": True,
        "dry_run": True,
    },
    "resume": {},
    "restart": {"worker_id": 17, "core": 3, "dry_run": True},
    "reload": {},
    "config": {},
    "upgrade": {},
    "abort": {"age_s": 12.0},
    "scale": {"workers": 3},
    "log-level": {"levels": "workers.proxy=debug", "for_s": 60.0},
    "stop": {"fast": True},
    "tickets/rotate": {"move": True, "spread_s": 2.0, "timeout_s": 60.0},
    "tickets/expire": {"epoch": 3, "spread_s": 2.0, "timeout_s": 60.0},
    "tickets/export": {},
    "tickets/import": {"document": {"version": 1}, "replace": True, "timeout_s": 60.0},
}
#: One value for each type of a field of facts.
SAMPLES: dict[str, Any] = {
    "int": 5,
    "float": 1.5,
    "float | None": None,
    "str": "words",
    "Any": {"version": 1},
    "list[Connection]": [{"worker_id": 1, "site": "a.example", "age_s": 3.0, "requests": 0}],
}
each_verb = pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)


def through_json(value: dict[str, Any]) -> Any:
    return json.loads(json.dumps(value))


def sample(kind: type[Facts]) -> Facts:
    return kind(**{each.name: SAMPLES[str(each.type)] for each in dataclasses.fields(kind)})


def test_the_table_has_every_request_and_all_facts_once() -> None:
    def of(module: Any, base: type) -> set[type]:
        return {each for each in vars(module).values() if isinstance(each, type) and issubclass(each, base)} - {base}

    assert {verb.request for verb in VERBS} == of(requests, Request)
    assert {kind for verb in VERBS for kind in verb.facts} == of(answers, Facts)
    assert len({verb.name for verb in VERBS}) == len({verb.request for verb in VERBS}) == len(VERBS)
    assert set(BODIES) == {verb.name for verb in VERBS}


@each_verb
def test_a_request_comes_back_as_it_was(verb: Verb) -> None:
    body = BODIES[verb.name] | {"reason": "CHG-1"}
    request = parse_request(verb.request, body)
    assert verb_of(request) is verb
    assert request_body(request) == body
    assert parse_request(verb.request, through_json(request_body(request))) == request


@each_verb
def test_every_field_of_a_request_is_in_the_body_of_this_test(verb: Verb) -> None:
    names = {each.name for each in dataclasses.fields(verb.request)} - {"reason"}
    assert names - {"all", "older_than_s"} == set(BODIES[verb.name])


@each_verb
def test_what_is_absent_stays_absent(verb: Verb) -> None:
    """An absent field means the default of the node, which an older or newer one may have changed."""
    needed = {name: BODIES[verb.name][name] for name in ("age_s", "workers", "epoch") if name in BODIES[verb.name]}
    found = request_body(parse_request(verb.request, needed))
    assert {name: value for name, value in found.items() if name not in ("mode", "reason")} == needed


@each_verb
def test_an_unknown_field_is_refused(verb: Verb) -> None:
    with pytest.raises(BadRequest, match=r"^cannot understand the field 'fats': expected one of .*reason"):
        parse_request(verb.request, BODIES[verb.name] | {"fats": True})


@pytest.mark.parametrize("document", [None, True, -1, 1.5, "x" * 600, [], {"a": 1}])
def test_any_document_is_left_to_the_reader_of_keys(document: object) -> None:
    assert parse_request(requests.ImportKeys, {"document": document}).document == document


@pytest.mark.parametrize(
    ("verb", "name"),
    [(verb, name) for verb in VERBS for name in [*BODIES[verb.name], "reason"] if name not in verb.secret],
)
def test_a_wrong_type_is_refused_and_the_field_is_named(verb: Verb, name: str) -> None:
    right = (BODIES[verb.name] | {"reason": "x"})[name]
    wrong: list[Any] = [[], {}, [1], {"a": 1}, *([5] if isinstance(right, str) else ["5"])]
    wrong += (
        [1, 0] if isinstance(right, bool) else [True] if name != "reason" else [None, "a\nb", "\x1b[31m", "a" * 501]
    )
    if isinstance(right, int | float) and not isinstance(right, bool):
        wrong += [-1, 1e9, 10**400, math.nan, math.inf]
    if isinstance(right, int) and not isinstance(right, bool):
        wrong += [1.5]
    for value in wrong:
        with pytest.raises(BadRequest, match=rf"^cannot understand {name} .*: expected "):
            parse_request(verb.request, BODIES[verb.name] | {name: value})


@each_verb
@pytest.mark.parametrize("body", [None, 5, "x", [], True])
def test_a_body_that_is_not_an_object_is_refused(verb: Verb, body: object) -> None:
    with pytest.raises(BadRequest, match="cannot understand the body: expected a JSON object"):
        parse_request(verb.request, body)


@pytest.mark.parametrize(
    ("name", "body", "said"),
    [
        ("abort", {}, "cannot understand the request: age_s is missing, expected a number, 0 or more"),
        ("scale", {}, "cannot understand the request: workers is missing, expected a whole number, 0 or more"),
        ("quiesce", {"mode": "soon"}, "cannot understand mode 'soon': expected graceful, immediate or discourage"),
        ("stop", {"fast": "yes"}, "cannot understand fast 'yes': expected true or false"),
        ("scale", {"workers": "9" * 99}, f"cannot understand workers '{'9' * 39}: expected a whole number, 0 or more"),
        ("tickets/expire", {}, "cannot understand which epochs are meant: expected one of all, older_than_s and epoch"),
        ("tickets/expire", {"all": True, "epoch": 1}, "cannot understand which epochs are meant: expected one of all,"),
    ],
)
def test_an_error_names_the_field_and_what_is_expected(name: str, body: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_request(next(verb for verb in VERBS if verb.name == name).request, body)
    assert str(refused.value).startswith(said)


def test_a_whole_number_may_be_written_with_a_point() -> None:
    request = parse_request(requests.Scale, {"workers": 3.0})
    assert (request.workers, type(request.workers)) == (3, int)


# --- answers


@pytest.mark.parametrize(("verb", "kind"), [(verb, kind) for verb in VERBS for kind in (*verb.facts, None)])
@pytest.mark.parametrize("exit_code", [None, 0, 4])
def test_an_answer_comes_back_as_it_was(verb: Verb, kind: type[Facts] | None, exit_code: int | None) -> None:
    answer = Answer("words", sample(kind) if kind else None, exit_code)
    line = through_json(answer_line(answer))
    assert parse_answer(line, verb.facts) == answer
    assert line.get("ok") == (None if exit_code is None else exit_code == 0)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Answer("under way"), {"text": "under way"}),
        (Answer("worker 1 is ready", level="info"), {"text": "worker 1 is ready", "level": "info"}),
        (Answer("stopped", exit_code=0), {"ok": True, "text": "stopped", "exit_code": 0}),
        (
            Answer("upgrading", answers.Upgrading(before="1", after="2"), 0),
            {"ok": True, "text": "upgrading", "exit_code": 0, "from": "1", "to": "2"},
        ),
        (
            Answer("2 left, lost=1", answers.Left(connections=2, lost=1), 4),
            {"ok": False, "text": "2 left, lost=1", "exit_code": 4, "connections": 2, "lost": 1},
        ),
    ],
)
def test_lines_look_as_scripts_know_them(answer: Answer, line: dict[str, Any]) -> None:
    assert answer_line(answer) == line


def test_a_line_of_another_version_is_understood() -> None:
    """A newer node has more fields, an older one fewer: the text and the exit code are there anyway."""
    later = {"text": "restarted", "ok": True, "exit_code": 0, "lost": 0, "weather": "rain"}
    assert parse_answer(later, (answers.Restarted,)) == Answer("restarted", answers.Restarted(lost=0), 0)
    early = {"text": "restarted", "ok": True, "exit_code": 0}
    assert parse_answer(early, (answers.Restarted,)) == Answer("restarted", None, 0)
    assert parse_answer({}) == Answer("")


@pytest.mark.parametrize(
    "line", [5, None, [], {"text": 5}, {"exit_code": "x"}, {"exit_code": None}, {"exit_code": True}]
)
def test_a_line_that_is_no_answer_is_refused(line: object) -> None:
    with pytest.raises(ValueError, match=r"a line is not an object with a text|an exit code is not a number"):
        parse_answer(line)


def test_keys_are_secret_and_nothing_else_is() -> None:
    assert {verb.name: verb.secret for verb in VERBS if verb.secret} == {"tickets/import": {"document"}}
    assert "root" not in repr(requests.ImportKeys(document={"root": "ab"}))
    assert "root" not in repr(answers.Exported(document={"root": "ab"}))
