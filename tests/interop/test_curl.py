"""curl (ngtcp2, nghttp3, OpenSSL) gets correct responses over the documented key exchange, on both engines."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers import aioquic_server
from tests.support import sid
from tests.support.certificates import make_certificate
from tests.support.node import ENGINES, Node, running_node
from tests.support.peers import HYBRID_GROUPS, curl
from tests.support.waiting import poll

pytestmark = [pytest.mark.interop, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _sid() -> None:
    sid.require("test")


def test_default_is_post_quantum_and_verified(edge: Node, site: Path) -> None:
    """curl with default options, HTTP/3 only: X25519MLKEM768, a chain that verifies, and the page."""
    run = curl(edge.url(), ca=edge.ca)
    assert (run.answer.status, run.answer.http_version) == (200, "3")
    assert run.group == "X25519MLKEM768"
    assert run.answer.verify_result == 0
    assert run.answer.body == (site / "index.html").read_bytes()
    assert run.answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("group", HYBRID_GROUPS)
def test_each_hybrid_group(edge: Node, group: str) -> None:
    """A client that supports only one hybrid group gets that one, and the node counts it."""
    counter = f"handshakes_{group.lower()}"
    before = edge.status()["counters"][counter]
    run = curl(edge.url(), "--curves", group, ca=edge.ca)
    assert (run.answer.status, run.group) == (200, group)
    edge.counter(counter, at_least=before + 1)


@pytest.mark.parametrize("first", ["X25519", "P-256", "P-521"])
def test_hello_retry_request_leads_to_post_quantum(edge: Node, first: str) -> None:
    """A client that sends a classical share, but supports X25519MLKEM768, gets a HelloRetryRequest for that."""
    before = edge.status()["counters"]["hello_retry_requests"]
    run = curl(edge.url(), "--curves", f"{first}:X25519MLKEM768", ca=edge.ca)
    # OpenSSL sends one share, of its first group: another group shows that there was a HelloRetryRequest.
    assert (run.answer.status, run.group) == (200, "X25519MLKEM768")
    edge.counter("hello_retry_requests", at_least=before + 1)


def test_no_common_group_is_refused(edge: Node) -> None:
    """Without a common group there is no connection, and the node continues."""
    run = curl(edge.url(), "--curves", "P-521", ca=edge.ca)
    assert run.answer.status == 0
    assert run.answer.exit_code != 0
    assert curl(edge.url(), ca=edge.ca).answer.status == 200


def test_head_has_no_body(edge: Node, site: Path) -> None:
    """HEAD: the fields of GET, and no body."""
    run = curl(edge.url("/letters.txt"), "--head", ca=edge.ca)
    assert run.answer.status == 200
    assert run.answer.headers["content-length"] == str((site / "letters.txt").stat().st_size)
    assert run.answer.n_bytes == 0


def test_range_requests_return_the_requested_bytes(edge: Node, site: Path) -> None:
    """A range is 206 with exactly those bytes; one beyond the end is 416 with the length."""
    whole = (site / "letters.txt").read_bytes()
    run = curl(edge.url("/letters.txt"), "--range", "100-199", ca=edge.ca)
    assert (run.answer.status, run.answer.body) == (206, whole[100:200])
    assert run.answer.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    run = curl(edge.url("/letters.txt"), "--range", "-5", ca=edge.ca)
    assert (run.answer.status, run.answer.body) == (206, whole[-5:])
    run = curl(edge.url("/letters.txt"), "--range", "99999-", ca=edge.ca)
    assert (run.answer.status, run.answer.headers["content-range"]) == (416, f"bytes */{len(whole)}")


def test_known_entity_tag_or_date_returns_304(edge: Node) -> None:
    """A representation that the client has is answered with 304, by entity tag and by date."""
    first = curl(edge.url("/letters.txt"), ca=edge.ca).answer
    for condition in (
        f"If-None-Match: {first.headers['etag']}",
        f"If-Modified-Since: {first.headers['last-modified']}",
    ):
        answer = curl(edge.url("/letters.txt"), "--header", condition, ca=edge.ca).answer
        assert (answer.status, answer.body) == (304, b""), condition


def test_missing_file_is_404_and_wrong_method_is_405(edge: Node) -> None:
    """A missing file is 404, also outside the root; a method that is not allowed is 405 with Allow."""
    assert curl(edge.url("/nothing"), ca=edge.ca).answer.status == 404
    outside = curl(edge.url("/../../etc/passwd"), "--path-as-is", ca=edge.ca).answer
    assert outside.status in (400, 404)
    refused = curl(edge.url("/letters.txt"), "--data", "x=1", ca=edge.ca).answer
    assert refused.status == 405
    assert "GET" in refused.headers["allow"]


def test_large_download_is_complete(edge: Node, site: Path) -> None:
    """20 MB arrive completely."""
    run = curl(edge.url("/big"), ca=edge.ca)
    assert run.answer.status == 200
    assert hashlib.sha256(run.answer.body).digest() == hashlib.sha256((site / "big").read_bytes()).digest()


def test_large_upload_is_refused_and_the_connection_continues(edge: Node, site: Path) -> None:
    """A static site accepts no upload: 20 MB are neither buffered nor a reason to close the connection."""
    run = curl(edge.url("/letters.txt"), "--upload-file", str(site / "big"), "{next}", ca=edge.ca)
    assert [answer.status for answer in run.answers] == [405, 200]
    assert len(run.groups) == 1, "the second transfer needed a new connection"


def test_upload_to_a_route_is_answered_after_the_whole_body(edge: Node, site: Path, short_dir: Path) -> None:
    """Several windows long, so that a worker without flow control credit would stall it; 20 MB exceed the bound."""
    short_dir.chmod(0o755)
    body = short_dir / "body"
    body.write_bytes((site / "big").read_bytes()[:5_000_000])
    before = edge.status()["counters"]["receive_bytes"]
    run = curl(edge.url("/upload"), "--upload-file", str(body), ca=edge.ca)
    assert (run.answer.status, run.answer.body) == (201, b"all of it")
    edge.counter("receive_bytes", at_least=before + 5_000_000)
    refused = curl(edge.url("/upload"), ca=edge.ca).answer
    assert (refused.status, refused.headers["allow"]) == (405, "POST, PUT")
    assert curl(edge.url("/upload"), "--upload-file", str(site / "big"), ca=edge.ca).answer.status == 413


def test_resumption(edge: Node) -> None:
    """A second connection resumes the session of the first, on any worker."""
    before = edge.status()["counters"]["handshakes_resumed"]
    # Another local address: curl may not reuse the connection, but the ticket is for the same server.
    other = [option for n in range(2, 8) for option in ("{next}", "--interface", f"127.0.0.{n}")]
    run = curl(edge.url(), *other, ca=edge.ca)
    assert [answer.status for answer in run.answers] == [200] * 7
    assert [answer.new_connections for answer in run.answers] == [1] * 7
    assert run.resumed == 6
    edge.counter("handshakes_resumed", at_least=before + 6)


def test_many_connections_are_spread_over_workers(edge: Node) -> None:
    """40 connections at once all succeed, and more than one worker served them."""
    before = {worker["worker_id"]: worker["requests"] for worker in edge.status()["workers"]}
    places = [option for n in range(10, 50) for option in ("{next}", "--interface", f"127.0.0.{n}")]
    run = curl(edge.url("/letters.txt"), *places[1:], ca=edge.ca)
    assert {answer.status for answer in run.answers} == {200}

    def served() -> dict[int, int]:
        return {w["worker_id"]: w["requests"] - before[w["worker_id"]] for w in edge.status()["workers"]}

    poll(lambda: sum(served().values()) >= 40, "the workers' counts")
    assert all(count > 0 for count in served().values()), served()


@pytest.mark.parametrize("engine", ENGINES)
def test_retry(engine: str) -> None:
    """With a Retry before every connection everything works, and the node counts the Retries."""
    with running_node("--set", "server.limits.retry_threshold=0", engine=engine) as node:
        run = curl(node.url(), ca=node.ca)
        assert (run.answer.status, run.group) == (200, "X25519MLKEM768")
        node.counter("verdict_retried", at_least=1)


@pytest.fixture
def stock(tmp_path: Path, short_dir: Path) -> Iterator[tuple[str, Path]]:
    """A server on stock aioquic: its URL and its certificate."""
    short_dir.chmod(0o755)
    (tmp_path / "1k").write_bytes(bytes(1024))
    certificate = make_certificate(short_dir, "localhost")
    port_file = short_dir / "port"
    argv = [
        sys.executable,
        aioquic_server.__file__,
        "--port",
        "0",
        "--port-file",
        str(port_file),
        "--root",
        str(tmp_path),
    ]
    process = subprocess.Popen([*argv, "--certificate", certificate.chain, "--key", certificate.key])
    try:
        port = poll(lambda: port_file.exists() and port_file.read_text(), "the stock server")
        yield f"https://localhost:{port}/1k", certificate.chain
    finally:
        process.kill()
        process.wait()


def test_control_stock_aioquic_is_not_post_quantum(stock: tuple[str, Path]) -> None:
    """The control: the same curl reports a server without ML-KEM as such."""
    url, ca = stock
    assert curl(url, ca=ca).group == "x25519"
    assert curl(url, "--curves", "X25519MLKEM768", ca=ca).answer.status == 0
