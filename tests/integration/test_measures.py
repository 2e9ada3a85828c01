"""What workers measure reaches /metrics with its labels, and no counter falls when a worker or a supervisor ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.node import ENGINES, Node, running_node
from tests.support.promtool import promtool
from tests.support.supervised import Supervised, supervised
from tests.support.waiting import poll
from velocity_edge.client.h3_client import Options, connect

Found = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def samples(page: bytes) -> Found:
    families = text_string_to_metric_families(page.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(found: Found, name: str, **labels: str) -> float:
    """Return the sum over the series that have these labels."""
    return sum(n for (found_name, others), n in found.items() if found_name == name and labels.items() <= others)


def metrics(node: Node) -> Found:
    return samples(node.admin("GET", "/v1/metrics")[1])


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_and_handshakes_are_on_the_page_by_site_and_group(engine: str) -> None:
    with running_node(engine=engine) as node:

        async def get() -> None:
            async with connect(node.url(), Options(cafile=node.ca, timeout_s=20.0)) as connection:
                for path in ("/", "/", "/missing"):
                    await connection.request("GET", path)

        asyncio.run(get())
        name = "velocity_http_requests_total"
        poll(lambda: value(metrics(node), name) == 3, "three requests in the metrics")
        found = metrics(node)
        assert value(found, name, status="200", method="GET", site="*", proto="h3") == 2
        assert value(found, name, status="404") == 1
        assert value(found, "velocity_http_request_duration_seconds_count", site="*") == 3
        assert value(found, "velocity_http_response_bytes_total", status="200") > 0
        done = {"alpn": "h3", "group": "X25519MLKEM768", "result": "completed", "resumed": "false"}
        assert value(found, "velocity_handshakes_total", **done) == 1
        assert value(found, "velocity_handshake_duration_seconds_count", profile="balanced") == 1
        assert value(found, "velocity_kem_operation_duration_seconds_count", op="encapsulate") == 1
        promtool("check", "metrics", page=node.admin("GET", "/v1/metrics")[1])


def answers(node: Supervised) -> float:
    _, page, _ = node.request("GET", "metrics")
    return value(samples(page), "velocity_rate_limited_total", rule="pretend")


def ask(node: Supervised, times: int) -> None:
    """Have workers answer as many datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(node.address)
        sock.settimeout(5.0)
        for _ in range(times):
            sock.send(b"\xc0\0\0\0\1\x08" + os.urandom(8) + bytes(32))
            sock.recv(128)


def test_counters_continue_when_workers_and_supervisors_are_replaced() -> None:
    with supervised("good", workers=2) as node:
        ask(node, 10)
        poll(lambda: answers(node) == 10, "all answers to be counted")
        assert node.post("restart")[0] == 200
        assert answers(node) == 10
        ask(node, 5)
        poll(lambda: answers(node) == 15, "those of new workers to be added")
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        node.start()
        node.wait_for_serving()
        assert answers(node) == 15
        ask(node, 1)
        poll(lambda: answers(node) == 16, "the adopted workers to be counted")


def test_counters_of_workers_that_died_beside_their_supervisor_remain() -> None:
    with supervised("good", workers=2) as node:
        ask(node, 10)
        poll(lambda: answers(node) == 10, "all answers to be counted")
        victim = node.status()["workers"][0]["pid"]
        file = node.directory / "run" / "measured.json"
        poll(lambda: b"pretend" in file.read_bytes() if file.exists() else False, "the file", 15.0)
        poll(lambda: file.read_bytes().count(b"pretend") == 2 or None, "both workers in the file", 15.0)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait()
        os.kill(victim, signal.SIGKILL)
        node.start()
        node.wait_for_serving()
        assert answers(node) == 10
