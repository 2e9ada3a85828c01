"""Invariant: a line per request that is wanted, whose fields no client can break, in either form."""

import re

import orjson
import pytest

from velocity_edge.config.model import Config
from velocity_edge.config.telemetry import AccessLog as Settings
from velocity_edge.http.requests import RequestReceived
from workers.serve.access_lines import UpstreamTimes, clf_line, extended_line, json_line
from workers.serve.access_log import AccessLog, AccessRule, rule_of

PEER = (b"\xc0\0\2\1", 4000)
TIMES = UpstreamTimes("10.0.0.3:80", 502, 0.001, 0.002, 0.0035, 3)


class Written:
    def __init__(self) -> None:
        self.data = b""
        self.log = AccessLog(self._write, lambda: 1_700_000_000.5)

    def _write(self, lines: bytes) -> None:
        self.data += lines

    def add(self, rule: AccessRule, path: bytes = b"/", **more: object) -> str:
        event = RequestReceived(1, 0, b"GET", b"https", b"example.com", path, (), True)
        self.log.add(rule, event, PEER, 502, 7, 1_700_000_000.25, **more)  # type: ignore[arg-type]
        self.log.flush()
        return self.data.splitlines()[-1].decode()


def test_json_has_upstream_timings_id_and_site() -> None:
    more = {"request_id": b"abc", "site": "example.com", "group": "X25519MLKEM768", "trace_id": "f" * 32}
    line = orjson.loads(Written().add(AccessRule(json_line), upstream=TIMES, **more))
    assert line["upstream"] == {
        "address": "10.0.0.3:80",
        "status": 502,
        "connect_ms": 1.0,
        "head_ms": 2.0,
        "total_ms": 3.5,
        "attempts": 3,
    }
    assert (line["id"], line["site"], line["group"], line["proto"]) == ("abc", "example.com", "X25519MLKEM768", "h3")
    assert (line["duration_ms"], line["trace_id"], line["peer"]) == (250.0, "f" * 32, "192.0.2.1")
    assert "upstream" not in orjson.loads(Written().add(AccessRule(json_line)))


def test_extended_lines_begin_with_the_combined_format() -> None:
    plain = Written().add(AccessRule(clf_line), b"/a b")
    line = Written().add(AccessRule(extended_line), b"/a b", request_id=b"a b", site="*", upstream=TIMES)
    assert plain.endswith('"GET /a b HTTP/3" 502 7 "-" "-"')
    assert line == (
        plain + " id=a b site=* proto=h3 rt=0.250000 upstream=10.0.0.3:80 us=502 uct=0.001000 uht=0.002000 "
        "urt=0.003500 tries=3"
    )


def test_other_protocols_have_their_version() -> None:
    assert '"GET / HTTP/1.1"' in Written().add(AccessRule(clf_line), proto="h1")


@pytest.mark.parametrize("sample", [0.0, 0.1, 0.25, 1.0])
def test_the_sampled_share_is_exact_and_errors_are_always_logged(sample: float) -> None:
    log, rule = Written().log, AccessRule(json_line, sample)
    assert abs(sum(log.wants(rule, 200) for _ in range(1000)) - 1000 * sample) <= 1
    assert all(log.wants(rule, 503) for _ in range(10))


def test_redacted_clients_are_the_same_until_the_salt_changes() -> None:
    written, rule = Written(), AccessRule(json_line, redact=True)
    written.log.salt = b"a" * 32
    first, second = (orjson.loads(written.add(rule))["peer"] for _ in range(2))
    written.log.salt = b"b" * 32
    third = orjson.loads(written.add(rule))["peer"]
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert first == second != third
    assert "192.0.2.1" not in written.data.decode()


def test_the_plain_word_is_the_section_with_defaults() -> None:
    """Workers of earlier versions understand only the word."""
    config = Config.from_json({"server": {"telemetry": {"access_log": "clf"}}})
    assert config.server.telemetry.access_log == Settings(format="clf")
    assert config.to_json()["server"]["telemetry"]["access_log"] == "clf"
    section = {"format": "json", "sample": 0.5, "redact": True}
    config = Config.from_json({"server": {"telemetry": {"access_log": section}}})
    assert config.to_json()["server"]["telemetry"]["access_log"] == section
    rule = rule_of(config.server.telemetry.access_log)
    assert rule == AccessRule(json_line, 0.5, True)
    assert rule_of(Settings()) is None
