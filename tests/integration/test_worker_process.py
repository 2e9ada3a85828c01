"""A worker without rights serves HTTP/3 on the sockets it was given, obeys orders, and serves without a supervisor."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.succession import adoption
from tests.support.h3 import H3Client
from tests.support.waiting import poll
from tests.support.worker_process import Bench, WorkerProcess
from velocity_edge.quic.open_engine import native_missing
from velocity_edge.wire import messages as m
from velocity_edge.wire.counters import VERDICTS

BIG = os.urandom(3_000_000)


@pytest.fixture
def root() -> Iterator[Path]:
    # Not below tmp_path, which only its owner may search: the worker runs as another user.
    path = Path(tempfile.mkdtemp(prefix="ve-site-"))
    path.chmod(0o755)
    (path / "index.html").write_text("<h1>hello</h1>")
    (path / "big.bin").write_bytes(BIG)
    (path / "private.txt").write_text("x")
    (path / "private.txt").chmod(0o600)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["portable", "native"])
def bench(root: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "native" and (missing := native_missing()):
        pytest.skip(f"native engine: {missing}")
    with Bench(root, engine=request.param) as bench:
        yield bench
        for worker in bench.workers:
            log = worker.log.read_text()
            assert "imported after" not in log
            assert "Traceback" not in log, log


@pytest.fixture
def worker(bench: Bench) -> WorkerProcess:
    worker = bench.start()
    bench.serve(worker)
    return worker


def stop(worker: WorkerProcess) -> None:
    worker.send(m.Stop())
    assert worker.wait() == 0, worker.log.read_text()


def counts(bench: Bench, slot: int = 0) -> dict[str, int]:
    return bench.slots[slot].slab.read()


def test_worker_serves_and_counts_every_datagram_once(bench: Bench, worker: WorkerProcess) -> None:
    with H3Client(bench.port, bench.ca) as client:
        page = client.get("/")
        assert (page.status, page.body, page.headers["server"]) == (200, b"<h1>hello</h1>", "velocity-edge")
        assert page.headers["x-content-type-options"] == "nosniff"
        assert client.get("/", if_none_match=page.headers["etag"]).status == 304
        assert client.get("/big.bin").body == BIG
        part = client.get("/big.bin", range="bytes=1000000-1000999")
        assert (part.status, part.body) == (206, BIG[1_000_000:1_001_000])
        several = client.get("/big.bin", range="bytes=0-9,1000000-2000000")
        assert BIG[1_000_000:2_000_001] in several.body
        assert len(several.body) == int(several.headers["content-length"])
        head = client.head("/big.bin")
        assert (head.status, head.headers["content-length"], head.body) == (200, str(len(BIG)), b"")
        assert client.get("/nothing").status == 404
        assert client.get("/%2e%2e/etc/passwd").status == 404
        assert client.finish(client.send("POST", "/", {})).status == 405
        beat = worker.expect(m.Heartbeat, lambda beat: beat.requests == 9)
        assert (beat.connections, beat.half_open) == (1, 0)
        assert beat.rss_bytes > 1_000_000
        assert "worker 100 core 0 · serving · 1 connection" in worker.title
    stop(worker)
    seen = counts(bench)
    assert seen["datagrams_received"] + seen["datagrams_injected"] == sum(seen[name] for name in VERDICTS)
    assert (seen["requests"], seen["handshakes_completed"], seen["responses_2xx"]) == (9, 1, 5)


def test_worker_logs_a_supervisor_that_shares_no_used_tokens(bench: Bench) -> None:
    """A supervisor of an earlier version shares none; the worker keeps its own record and serves."""
    for slot in bench.slots:
        assert slot.used_tokens is not None
        assert slot.rate_cells is not None
        for fd in (slot.used_tokens, slot.rate_cells):
            os.close(fd)
        slot.used_tokens = slot.rate_cells = None
    worker = bench.start()
    bench.serve(worker)
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
    assert worker.log.read_text().count("does not share used tokens") == 1
    stop(worker)


def test_unwanted_upload_is_answered_and_does_not_hang(bench: Bench, worker: WorkerProcess) -> None:
    with H3Client(bench.port, bench.ca) as client:
        # In one call: the answer may arrive before a body that is sent later, and then the stream has ended.
        stream = client.send("POST", "/", {}, body=b"x" * 500_000)
        assert client.finish(stream).status == 405
        assert client.get("/").status == 200


@pytest.mark.root
def test_worker_drops_rights_when_only_root_may_read_the_program(bench: Bench, worker: WorkerProcess) -> None:
    """The tree and the interpreter may lie below a directory that only root may search."""
    if os.geteuid() != 0:
        pytest.skip("needs root: there are no rights to drop")
    assert set(worker.status("Uid").split()) == {str(os.stat("/").st_uid + 65534)}
    assert worker.status("Groups") == ""
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(worker.status(capabilities), 16) == 0
    assert worker.status("NoNewPrivs") == "1"
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/private.txt").status == 403
        assert client.get("/big.bin").body == BIG
    stop(worker)


@pytest.mark.root
def test_site_root_that_the_worker_may_not_read_is_refused(bench: Bench, root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: there are no rights to drop")
    worker = bench.start()
    bench.equip(worker)
    worker.send(bench.table.order())
    root.chmod(0o700)
    bench.configure(worker, 1, bench.config())
    refused = worker.expect(m.Refused)
    assert refused.reason.startswith(f"content.sites[0] (*): cannot serve files from {root}")
    root.chmod(0o755)
    bench.configure(worker, 2, bench.config())
    assert worker.expect(m.Prepared).revision == 2
    stop(worker)


def test_new_revision_serves_an_existing_connection(bench: Bench, worker: WorkerProcess, root: Path) -> None:
    with H3Client(bench.port, bench.ca) as client:
        assert "server" in client.get("/").headers
        bench.configure(worker, 2, bench.config(server_header=""))
        worker.expect(m.Prepared)
        assert "server" in client.get("/").headers  # prepared is not active
        worker.send(m.Activate(2))
        assert worker.expect(m.Ready).revision == 2
        assert "server" not in client.get("/").headers
        broken = m.Configure(3, bench.config().to_json(), [], [str(root)])
        worker.send(broken, [os.open(root, os.O_PATH)])
        assert worker.expect(m.Refused).revision == 3
        assert "server" not in client.get("/").headers


def test_keys_are_acknowledged_and_used(bench: Bench, worker: WorkerProcess) -> None:
    from velocity_edge.keys import rotation

    with H3Client(bench.port, bench.ca) as client:
        table = rotation.announce(bench.table, os.urandom(32), 0.0, 86_400.0)
        worker.send(table.order())
        report = worker.expect(m.KeysInUse, lambda report: len(report.epochs) == 2)
        assert (report.epochs, report.seal_with) == ([2, 1], 1)
        worker.send(rotation.switch(table).order())
        assert worker.expect(m.KeysInUse, lambda report: report.seal_with == 2)
        assert client.get("/").status == 200
        with H3Client(bench.port, bench.ca) as second:
            assert second.get("/").status == 200


# --- draining --------------------------------------------------------------------------------------------------------


def test_drain_closes_idle_connections_without_error(bench: Bench, worker: WorkerProcess) -> None:
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
        worker.send(m.Drain(deadline_s=20.0))
        assert client.get("/big.bin").body == BIG  # between the two GOAWAYs requests still count
        assert client.wait_closed() == 0x100
    assert worker.expect(m.Drained).lost == 0
    stop(worker)


def test_drain_waits_for_a_running_request_and_counts_it_at_the_deadline(bench: Bench, worker: WorkerProcess) -> None:
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
        client.go_deaf()
        client.send("GET", "/big.bin")
        worker.expect(m.Heartbeat, lambda beat: beat.requests == 2)
        worker.send(m.Drain(deadline_s=4.0))
        assert worker.expect(m.Drained).lost == 1


def test_resumed_worker_accepts_new_connections(bench: Bench, worker: WorkerProcess) -> None:
    worker.send(m.Drain(deadline_s=60.0))
    worker.expect(m.Drained)
    poll(lambda: "drained" in worker.title, "the title to say drained")
    worker.send(m.Resume())
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200


def test_abort_closes_connections_above_the_given_age(bench: Bench, worker: WorkerProcess) -> None:
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
        worker.send(m.Abort(age_s=3600.0))
        assert client.get("/").status == 200
        worker.send(m.Abort(age_s=0.0))
        assert client.wait_closed() == 0x100


def test_stop_closes_connections_with_no_error(bench: Bench, worker: WorkerProcess) -> None:
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
        stop(worker)
        assert client.wait_closed() == 0x100


# --- without a supervisor --------------------------------------------------------------------------------------------


def test_worker_serves_without_supervisor_and_obeys_the_next(bench: Bench, worker: WorkerProcess) -> None:
    worker.send(m.Keep(1), bench.slots[1].bundle.pack())
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
        worker.hang_up()
        assert client.get("/big.bin").body == BIG
        with H3Client(bench.port, bench.ca) as new_client:
            assert new_client.get("/").status == 200
        poll(lambda: "without supervisor" in worker.title, "the title to say that there is no supervisor")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(bench.successor))
            bench.directory.chmod(0o755)
            bench.successor.chmod(0o666)
            listener.listen()
            worker.adopted_by(listener)
        hello = worker.expect(m.Hello)
        assert (hello.worker_id, hello.revision, hello.draining) == (100, 1, False)
        for slot in (1, 0):  # its own descriptor comes last: a supervisor does not wait for more
            held, descriptors = worker.expect_received(m.Held)
            assert held.slot == slot
            assert [os.fstat(fd)[:3] for fd in descriptors] == [
                os.fstat(fd)[:3] for fd in bench.slots[slot].bundle.pack()
            ]
            for fd in descriptors:
                os.close(fd)
        assert client.get("/").status == 200
        worker.expect(m.Heartbeat)
        stop(worker)
        assert client.wait_closed() == 0x100


@pytest.mark.parametrize("bench", ["portable"], indirect=True)
def test_drained_worker_without_supervisor_ends_and_frees_its_port(bench: Bench) -> None:
    """The deadline of the drain applies without a supervisor, too. The waiting time is a second here."""
    program = (
        "import sys; from workers import __main__; from workers.process import supervision; supervision.ALONE_S = 1.0; "
    )
    bench.python = [sys.executable, "-I", "-c", program + "sys.exit(__main__.main())"]
    worker = bench.start()
    bench.serve(worker)
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
        worker.send(m.Drain(deadline_s=3.0, spread_s=60.0))
        worker.hang_up()
        assert client.wait_closed() == 0x100
    assert worker.wait() == 0, worker.log.read_text()
    assert "drained, and no supervisor connected within 1 s" in worker.log.read_text()


def test_invalid_order_closes_the_channel(bench: Bench, worker: WorkerProcess) -> None:
    worker._end.send(b".this is no message")
    poll(lambda: "it sent an invalid order" in worker.log.read_text(), "the worker to give the supervisor up")
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200


# --- two workers -----------------------------------------------------------------------------------------------------


def test_stray_packet_is_handed_over(bench: Bench, worker: WorkerProcess) -> None:
    other = bench.start(slot=1)
    bench.serve(other)
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
        bench.steer_all_to(1)
        for _ in range(20):
            assert client.get("/").status == 200
        assert client.get("/big.bin").body == BIG
    stop(worker)
    stop(other)
    first, second = counts(bench, 0), counts(bench, 1)
    assert second["verdict_handed_over"] >= 20
    assert first["datagrams_injected"] == second["verdict_handed_over"] - second["handover_full"]
    assert (first["requests"], second["requests"]) == (22, 0)
    for seen in (first, second):
        assert seen["datagrams_received"] + seen["datagrams_injected"] == sum(seen[name] for name in VERDICTS)


def test_replacement_of_a_killed_worker_resets_its_connections(bench: Bench, worker: WorkerProcess) -> None:
    with H3Client(bench.port, bench.ca) as client:
        assert client.get("/").status == 200
        worker.process.kill()
        worker.wait()
        successor = bench.start(slot=0)
        bench.serve(successor)
        client.send("GET", "/")
        # aioquic as a client does not recognise resets; ours does (tests/unit/velocity_edge/quic).
        poll(lambda: counts(bench)["verdict_reset"] >= 1, "the successor to answer with a stateless reset")
        stop(successor)


def test_log_levels_change_until_they_are_reset(bench: Bench, worker: WorkerProcess) -> None:
    gone = "the supervisor is gone"
    bench.directory.chmod(0o755)
    with adoption.listen(bench.successor) as listener:
        worker.send(m.SetLogLevels("workers.process=off", 600.0))
        worker.hang_up()
        worker.adopted_by(listener)
        worker.expect(m.Heartbeat)
        assert gone not in worker.log.read_text()
        worker.send(m.SetLogLevels("", 0.0))
        worker.send(m.Roster({}))
        worker.expect(m.Heartbeat)
        worker.hang_up()
        worker.adopted_by(listener)
        poll(lambda: gone in worker.log.read_text(), "the line of the second time")
    stop(worker)
