"""Invariant: on a real node, each verb reports the actual state of the node, the connection or the error."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import COMMAND, Node, running_node
from velocity_edge.client.h3_client import connect
from velocity_edge.client.options import Options

pytestmark = pytest.mark.slow
PUBLIC = Path(__file__).parents[2] / "public"


@pytest.fixture(scope="module", name="node")
def _node() -> Iterator[Node]:
    with running_node(root=PUBLIC, workers=2) as node:
        yield node


def test_banner_prints_working_commands(node: Node) -> None:
    assert "velocity-edge 0.1.0 is serving." in node.log
    assert f"velocity-edge client get --insecure https://127.0.0.1:{node.port}/" in node.log
    assert "X25519MLKEM768" in node.log


def test_picture_of_the_welcome_page_is_complete(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "edge.svg"
    done = node.command(
        "client", "get", "--cafile", str(node.ca), node.url("/edge.svg"), "--output", str(file), "--json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert file.read_bytes() == (PUBLIC / "edge.svg").read_bytes()
    assert found["status"] == 200
    assert found["handshake"]["group"] == "X25519MLKEM768"
    assert found["handshake"]["post_quantum"] is True


def test_every_file_linked_from_the_page_is_served(node: Node) -> None:
    for name in ("", "style.css", "protocol.js", "favicon.svg"):
        done = node.command("client", "get", "--insecure", "--quiet", node.url(f"/{name}"))
        assert done.stdout == (PUBLIC / (name or "index.html")).read_text()


def test_client_exits_1_for_status_400_and_above_and_3_without_a_server(node: Node) -> None:
    assert node.command("client", "get", "--insecure", node.url("/nope")).returncode == 1
    done = node.command("client", "get", node.url("/"))
    assert done.returncode == 3
    assert done.stderr.startswith("velocity-edge: cannot ")


@pytest.mark.parametrize("group", ["SecP384r1MLKEM1024", "x25519"])
def test_client_negotiates_the_requested_group(node: Node, group: str) -> None:
    done = node.command("client", "get", "-k", "--groups", group, "--json", node.url("/"))
    assert json.loads(done.stdout)["handshake"]["group"] == group


def test_resolve_option_overrides_dns(node: Node) -> None:
    url = f"https://velocity.test:{node.port}/"
    done = node.command("client", "get", "--cafile", str(node.ca), "--resolve", "127.0.0.1", "-q", url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("<!doctype html>")


def test_probe_lists_the_groups_of_the_server(node: Node) -> None:
    found = json.loads(node.command("client", "probe", "--insecure", "--json", node.url("/")).stdout)
    assert set(found["groups"].values()) == {"accepted"}
    assert found["prefers_post_quantum"] is True
    text = node.command("client", "probe", "--insecure", node.url("/")).stdout
    assert "prefers PQ   yes (HelloRetryRequest)" in text


def test_cid_decode_names_the_worker_of_a_connection_id(node: Node) -> None:
    async def connection_ids() -> list[bytes]:
        async with connect(node.url("/"), Options(insecure=True)) as connection:
            response = await connection.request("GET")
            await response.read()
            quic = connection._quic
            return [quic._peer_cid.cid, *(spare.cid for spare in quic._peer_cid_available)]

    status = node.status()
    workers = {worker["worker_id"] for worker in status["workers"]}
    seen = set()
    for cid in asyncio.run(connection_ids()):
        done = node.command("cid", "decode", cid.hex(), "--json")
        assert done.returncode == 0, done.stderr
        owner = json.loads(done.stdout)
        assert owner["node_id"] == status["node_id"]
        seen.add(owner["worker_id"])
    assert len(seen) == 1
    assert seen <= workers
    assert node.command("cid", "decode", "00" * 20).returncode == 5


def test_status_and_health_agree_with_the_node(node: Node) -> None:
    assert json.loads(node.command("status", "--json").stdout)["node_id"] == node.status()["node_id"]
    screen = node.command("status").stdout
    assert screen.startswith(f"serving  127.0.0.1:{node.port}  tier ")
    assert len(screen.splitlines()) <= 24
    done = node.command("health")
    assert done.returncode in (0, 6)  # 6 where the machine lacks something, such as buffers
    assert done.stdout.startswith("serving, ")


def test_quiesce_and_resume_work_as_in_the_guide(node: Node) -> None:
    done = node.command("admin", "quiesce", "--wait", "--timeout", "20s", "--reason", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert node.command("health").returncode in (0, 6), "quiesced on purpose is healthy"
    assert node.command("health", "--ready").returncode == 1
    assert node.command("admin", "resume").returncode == 0
    assert node.command("client", "get", "-k", "-q", node.url("/")).returncode == 0


def test_configuration_error_starts_no_process(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("server:\n   lisen: 127.0.0.1:1\n")
    environment = os.environ | {"VELOCITY_RUNTIME_DIR": str(tmp_path / "run")}
    done = subprocess.run(
        [COMMAND, "serve", "--config", file], env=environment, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 78
    assert done.stderr == f'{file}:2:4: server.lisen: cannot understand this key; did you mean "listen"?\n'
    assert not (tmp_path / "run").exists()
