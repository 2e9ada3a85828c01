"""A supervisor keeps the node serving when workers or the supervisor itself fail, and reports what it does."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.supervised import Pinger, supervised
from tests.support.waiting import poll


def pids(status: dict[str, Any]) -> list[int]:
    return [w["pid"] for w in status["workers"]]


# --- start and stop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stop_leaves_no_process_or_file(number: signal.Signals) -> None:
    with supervised(workers=2) as node:
        workers = pids(node.status())
        node.process.send_signal(number)
        assert node.ended() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        assert {p.name for p in (node.directory / "run").iterdir()} == {"supervisor.lock"}


@pytest.mark.parametrize(
    ("character", "reason"), [("exits", "exited with 3"), ("refuses", "cannot use this: I am a picky one")]
)
def test_node_exits_with_the_reason_when_workers_cannot_start(character: str, reason: str) -> None:
    with supervised(character, start=False) as node:
        node.start()
        assert node.ended() == 1
        assert "cannot start" in node.log
        assert reason in node.log


def test_second_node_in_a_runtime_directory_is_refused() -> None:
    with supervised() as node:
        second = node.start()
        assert second.wait(10) == 1
        node.processes.pop()
        assert f"a node runs in {node.directory / 'run'} already (process {node.process.pid})" in node.log
        assert node.status()["state"] == "serving"


def test_port_of_another_program_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        # With SO_REUSEPORT and the same user, the kernel would let us join silently.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with supervised(start=False, server__listen=[f"127.0.0.1:{port}"]) as node:
            node.start()
            assert node.ended() == 1
            assert f"cannot listen on 127.0.0.1:{port}: another program listens there" in node.log


def test_bad_configuration_exits_78() -> None:
    with supervised(start=False, server__workers="many") as node:
        node.start()
        assert node.ended() == 78
        assert "server.workers" in node.log


def test_service_manager_is_notified() -> None:
    with supervised(start=False) as node, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(node.directory / "notify"))
        manager.settimeout(20)
        node.environment |= {"NOTIFY_SOCKET": str(node.directory / "notify"), "WATCHDOG_USEC": "600000"}

        def heard(wanted: str) -> str:
            while True:
                text = manager.recv(4096).decode()
                if wanted in text:
                    return text

        node.start()
        assert f"MAINPID={node.process.pid}" in heard("READY=1")
        heard("WATCHDOG=1")
        node.post("reload")
        assert "MONOTONIC_USEC=" in heard("RELOADING=1")
        heard("READY=1")
        node.process.send_signal(signal.SIGTERM)
        heard("STOPPING=1")


@pytest.mark.root
def test_supervisor_drops_unneeded_capabilities() -> None:
    with supervised() as node:
        status = Path(f"/proc/{node.process.pid}/status").read_text()
        effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff")), 16)
        bpf, net_admin, sys_admin, dac_override, bind = (1 << n for n in (39, 12, 21, 1, 10))
        assert effective & (bpf | net_admin | sys_admin | dac_override | bind) == 0


@pytest.mark.root
def test_new_worker_has_low_priority_while_its_core_is_served() -> None:
    """Imports have a low priority, except for the first workers and for replacements: their core has no worker.

    The priority stays low for some seconds at most. The fake worker never raises it itself.
    """
    with supervised("slow") as node:

        def priority() -> int:
            pid = node.status()["workers"][-1]["pid"]
            return os.getpriority(os.PRIO_PROCESS, pid) - os.getpriority(os.PRIO_PROCESS, node.process.pid)

        node.wait_for_serving()
        assert priority() == 0
        restart = threading.Thread(target=node.post, args=("restart",))
        restart.start()
        node.wait_until("a new worker", lambda status: len(status["workers"]) == 2)
        assert priority() == 10
        restart.join()
        node.wait_until("the normal priority", lambda status: priority() == 0)
        [worker] = node.wait_until("one worker", lambda status: len(status["workers"]) == 1)["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        node.wait_until("a successor", lambda status: [w["pid"] for w in status["workers"]] != [worker["pid"]])
        assert priority() == 0


# --- workers die


def test_packets_wait_while_a_killed_worker_is_replaced() -> None:
    with supervised() as node, Pinger(node.address) as pinger:
        [before] = node.status()["workers"]
        os.kill(before["pid"], signal.SIGKILL)
        after = node.wait_until(
            "a successor", lambda s: any(w["pid"] != before["pid"] and w["state"] == "ready" for w in s["workers"])
        )
        [worker] = after["workers"]
        assert worker["slot"] == before["slot"]
        assert worker["worker_id"] != before["worker_id"]
        pinger.finish()
        assert after["restarts"] == 1


@pytest.mark.slow
def test_worker_without_progress_is_killed() -> None:
    with supervised("stuck", start=False) as node:
        node.start()
        node.wait_until("a replacement", lambda s: s["restarts"] >= 1, 30)
        assert "no heartbeat for 10 s" in node.log


def test_worker_that_sends_an_invalid_message_is_replaced() -> None:
    with supervised() as node:
        [worker] = node.status()["workers"]
        # Take its channel (its only SEQPACKET socket that is not a hand-over link): stop its loop and take its place.
        channel = subprocess.run(
            ["cat", f"/proc/{worker['pid']}/cmdline"], capture_output=True, check=True
        ).stdout.split(b"\0")
        fd = int(channel[channel.index(b"--channel") + 1])
        theirs = socket.socket(fileno=_steal(worker["pid"], fd))
        theirs.send(b".nonsense")
        theirs.close()
        node.wait_until("another worker", lambda s: pids(s) not in ([worker["pid"]], []))
        assert "is killed: not a message" in node.log


def _steal(pid: int, fd: int) -> int:
    """Return a copy of another process's descriptor (pidfd_getfd(2))."""
    import ctypes

    pidfd = os.pidfd_open(pid)
    copy = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, fd, 0)
    os.close(pidfd)
    if copy < 0:
        pytest.skip("pidfd_getfd is not allowed here")
    return int(copy)


# --- the supervisor dies


def test_workers_serve_without_supervisor_and_are_adopted() -> None:
    with supervised(workers=2) as node, Pinger(node.address) as pinger:
        before = node.status()
        node.post("quiesce", mode="discourage", reason="CHG-7")
        node.process.kill()
        node.process.wait()
        asked = pinger.asked
        poll(lambda: pinger.asked > asked + 200, "packets without a supervisor")
        node.start()
        after = node.wait_until("adoption", lambda s: len(s["workers"]) == 2 and s["last_reload"] is not None)
        assert sorted(pids(after)) == sorted(pids(before))
        assert {w["worker_id"] for w in after["workers"]} == {w["worker_id"] for w in before["workers"]}
        assert after["listeners"] == before["listeners"]
        assert (after["state"], after["reason"]) == ("quiescing", "CHG-7"), "what an operator asked for outlives us"
        node.post("resume")
        assert node.post("restart")[1][-1]["ok"]
        poll(lambda: len(pinger.answered_by) == 4, "an answer from each new worker")
        pinger.finish()
        assert node.status()["node_id"] == before["node_id"]


def test_orphans_are_ended_by_stop_orphans() -> None:
    """`admin stop --orphans` refuses while a supervisor lives; afterwards there is nothing to adopt."""
    command = [sys.executable, "-I", "-m", "supervisor", "--end-orphans"]
    with supervised(workers=2) as node:
        workers = pids(node.status())
        refused = subprocess.run(command, env=node.environment, capture_output=True, text=True, check=False)
        assert (refused.returncode, "a node runs in" in refused.stderr) == (1, True)
        assert pids(node.status()) == workers
        node.process.kill()
        node.process.wait()
        ended = subprocess.run(command, env=node.environment, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (0, "2 workers ended\n")
        # They have ended; their new parent reaps them.
        poll(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "their end")
        again = subprocess.run(command, env=node.environment, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stdout) == (0, "nothing is left of an earlier node\n")
        assert {p.name for p in (node.directory / "run").iterdir()} == {"supervisor.lock"}


def test_adopted_worker_that_dies_is_replaced() -> None:
    with supervised() as node, Pinger(node.address) as pinger:
        node.process.kill()
        node.process.wait()
        node.start()
        [worker] = node.wait_for_serving()["workers"]
        os.kill(worker["pid"], signal.SIGKILL)
        node.wait_until("a successor", lambda s: pids(s) not in ([worker["pid"]], []) and s["state"] == "serving")
        node.wait_for_serving()
        pinger.finish()


def test_worker_that_died_without_supervisor_is_replaced_by_the_successor() -> None:
    with supervised(workers=2) as node:
        first, second = node.status()["workers"]
        node.process.kill()
        node.process.wait()
        os.kill(first["pid"], signal.SIGKILL)
        node.start()
        after = node.wait_until("two workers", lambda s: sum(w["state"] == "ready" for w in s["workers"]) == 2)
        assert second["pid"] in pids(after)
        assert first["worker_id"] not in {w["worker_id"] for w in after["workers"]}, "an id is not lent again so soon"


def test_next_node_reads_the_state_when_all_processes_died() -> None:
    with supervised(workers=2) as node:
        before = node.status()
        node.post("quiesce", reason="CHG-9", spread_s=0)
        node.process.kill()
        node.process.wait()
        for pid in pids(before):
            os.kill(pid, signal.SIGKILL)
        node.start()
        after = node.wait_until("the quiesce goes on", lambda s: s["state"] == "quiesced", 30)
        assert after["reason"] == "CHG-9"
        ids = {w["worker_id"] for w in before["workers"]}
        assert not ids & {w["worker_id"] for w in after["workers"]}
        node.post("resume")
        node.wait_for_serving()


def test_worker_that_does_not_reconnect_is_killed() -> None:
    with supervised(workers=1) as node:
        [worker] = node.status()["workers"]
        os.kill(worker["pid"], signal.SIGSTOP)
        node.process.kill()
        node.process.wait()
        node.start()
        after = node.wait_for_serving()
        assert worker["pid"] not in pids(after)
        poll(lambda: not Path(f"/proc/{worker['pid']}").exists(), "its end")


def test_foreign_process_is_not_adopted() -> None:
    with supervised() as node:
        node.process.kill()
        node.process.wait()
        [worker] = json.loads((node.directory / "run" / "state.json").read_text())["workers"]
        os.kill(worker["pid"], signal.SIGSTOP)  # so that adoption takes a while
        node.start()
        path = str(node.directory / "run" / "workers.sock")
        foreign = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def connected() -> bool:
            try:
                foreign.connect(path)
            except OSError:
                return False
            return True

        poll(connected, "the socket for workers")
        foreign.settimeout(10)
        assert foreign.recv(10) == b""
        foreign.close()
        os.kill(worker["pid"], signal.SIGCONT)
        assert worker["pid"] in pids(node.wait_for_serving())


def test_upgrade_keeps_the_process_and_loses_no_packet() -> None:
    with supervised(workers=2) as node, Pinger(node.address) as pinger:
        before = node.status()
        assert node.post("upgrade")[1][-1]["ok"]

        def rolled(status: dict[str, Any]) -> bool:
            ready = [w for w in status["workers"] if w["state"] == "ready"]
            return len(ready) == 2 and not set(pids(status)) & set(pids(before))

        after = node.wait_until("new workers", rolled)
        pinger.finish()
        assert after["pid"] == before["pid"]
        assert after["listeners"] == before["listeners"]
        # Children from before the exec are reaped, too.
        poll(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids(before)), "the end of the old workers")


# --- reload


def config_file(node: Any, **changes: Any) -> Path:
    path = Path(node.directory / "serve.yaml")
    root = node.directory / "root"
    lines = [
        "server:",
        "  listen: 127.0.0.1:0",
        f"  log_level: {changes.get('log_level', 'info')}",
        "  tls: {self_signed: true}",
        f"content: {{sites: [{{hostname: '*', root: {changes.get('root', root)}}}]}}",
    ]
    aside = path.with_suffix(".new")
    aside.write_text("\n".join(lines) + "\n")
    aside.replace(path)
    return path


def test_reload_changes_all_workers_or_none() -> None:
    with supervised("picky", workers=2, start=False) as node:
        for name in ("server.listen", "server.tls.self_signed", "content.sites"):
            del node.settings[name]
        node.start("--config", str(config_file(node)))
        node.wait_for_serving()
        workers = pids(node.status())

        code, lines = node.post("reload")
        assert (code, lines[-1]["ok"]) == (200, True)
        # Ready follows Activate.
        node.wait_until("revision 2", lambda s: {w["revision"] for w in s["workers"]} == {2})

        config_file(node, log_level="debug")
        node.wait_until("the file's change seen", lambda s: s["last_reload"]["revision"] == 3)
        last = node.status()["last_reload"]
        assert not last["ok"]
        assert "refused: cannot use this: I am a picky one" in last["reason"]

        config_file(node, log_level="loud")
        status = node.wait_until("the mistake seen", lambda s: "serve.yaml:3" in s["last_reload"]["reason"])
        assert any("serve.yaml:3" in sentence for sentence in status["degraded"])
        assert node.post("reload")[0] == 409

        config_file(node, root=node.directory / "nowhere")
        node.process.send_signal(signal.SIGHUP)
        node.wait_until("the folder missed", lambda s: "nowhere" in s["last_reload"]["reason"])

        config_file(node)
        status = node.wait_until("the good file", lambda s: s["last_reload"]["ok"])
        assert pids(status) == workers
        assert not status["degraded"] or "reload" not in " ".join(status["degraded"])


def test_reload_that_needs_a_node_restart_is_refused() -> None:
    with supervised(start=False) as node:
        del node.settings["server.listen"], node.settings["server.tls.self_signed"], node.settings["content.sites"]
        path = config_file(node)
        node.start("--config", str(path))
        node.wait_for_serving()
        path.write_text(path.read_text().replace("127.0.0.1:0", "127.0.0.1:1"))
        node.wait_until("refusal", lambda s: s["last_reload"] and "server.listen" in s["last_reload"]["reason"])


# --- operations


def test_a_rolling_restart_loses_no_packet() -> None:
    with supervised(workers=2) as node, Pinger(node.address) as pinger:
        before = node.status()
        code, lines = node.post("restart", reason="CHG-1")
        assert (code, lines[-1]["ok"], lines[-1]["lost"]) == (200, True, 0)
        pinger.finish()
        after = node.status()
        assert not set(pids(before)) & set(pids(after))
        assert after["restarts"] == 0, "a planned restart is no failure"


def test_one_worker_can_be_restarted() -> None:
    with supervised(workers=2) as node:
        first, second = node.status()["workers"]
        assert node.post("restart", worker_id=second["worker_id"])[1][-1]["ok"]
        assert first["pid"] in pids(node.status())
        assert second["pid"] not in pids(node.status())
        assert node.post("restart", worker_id=second["worker_id"])[0] == 409


def test_quiesce_and_resume() -> None:
    with supervised() as node:
        assert node.request("GET", "readyz")[0] == 200
        code, lines = node.post("quiesce", reason="CHG-2", wait=True, timeout_s=10, spread_s=0)
        assert (code, lines[-1]["ok"], lines[-1]["lost"]) == (200, True, 0)
        assert node.request("GET", "readyz")[0] == 503
        assert node.request("GET", "livez")[0] == 200
        status = node.status()
        assert (status["state"], status["reason"]) == ("quiesced", "CHG-2")
        again = node.post("quiesce", reason="CHG-3")[1][0]["text"]
        assert re.fullmatch(r"already quiesced since \d\d:\d\d:\d\dZ \(00:00:\d\d ago\), CHG-2", again)
        assert node.post("resume")[1][-1]["text"].startswith("serving again: it was quiesced since ")
        assert node.post("resume")[1][-1]["text"].startswith("already serving since ")
        assert node.request("GET", "readyz")[0] == 200


def test_scaling() -> None:
    with supervised(workers=2) as node:
        assert node.post("scale", workers=1)[1][-1]["ok"]
        assert len(node.status()["workers"]) == 1
        assert node.post("scale", workers=2)[1][-1]["ok"]
        node.wait_for_serving()
        assert node.post("scale", workers=1000)[0] == 409


def test_keys_rotate_and_are_kept() -> None:
    with supervised(workers=2) as node:
        assert node.status()["keys"]["seal_with"] == 1
        assert node.post("tickets/rotate")[1][-1]["text"] == "epoch 2 seals"
        assert sorted(node.status()["keys"]["ages_s"]) == ["1", "2"]
        stored = node.directory / "state" / "tickets.json"
        assert stored.stat().st_mode & 0o777 == 0o600
        assert json.loads(stored.read_text())["seal_with"] == 2
        node.process.kill()
        node.process.wait()
        node.start()
        assert node.wait_for_serving()["keys"]["seal_with"] == 2


def test_admin_api_refuses_invalid_requests_with_a_message() -> None:
    with supervised() as node:
        code, answer, headers = node.request("GET", "quiesce")
        assert (code, headers["Allow"]) == (405, "POST")
        assert node.status()["state"] == "serving", "a GET never changes anything"
        assert node.request("POST", "quiesce", {"mode": "softly"})[0] == 400
        assert node.request("POST", "quiesce", [1])[0] == 400
        assert node.request("POST", "abort", {})[0] == 400
        assert node.request("POST", "nothing", {})[0] == 404
        etag = node.request("GET", "status")[2]["ETag"]
        assert node.request("POST", "reload", {}, If_Match=etag)[0] == 200
        code, answer, _ = node.request("POST", "reload", {}, If_Match=etag)
        assert code == 412
        assert answer["error"].startswith("cannot")


def test_admin_api_checks_permissions_and_writes_the_audit_log() -> None:
    with supervised() as node:
        node.post("resume")
        [line] = (node.directory / "state" / "audit.log").read_text().splitlines()
        assert json.loads(line)["outcome"].startswith("already serving since ")
        assert json.loads(line) | {"at": "", "pid": 0} == {
            "at": "",
            "uid": os.getuid(),
            "pid": 0,
            "request": "/v1/resume",
            "body": {},
            "outcome": json.loads(line)["outcome"],
        }
        sock = node.directory / "run" / "admin.sock"
        assert sock.stat().st_mode & 0o777 == 0o660
        if os.geteuid() == 0:
            # As a member of the group: may resume, may not stop.
            ask = f"import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect({str(sock)!r}); " + (
                "s.send(b'POST /v1/%s HTTP/1.0\\r\\n\\r\\n' % sys.argv[1].encode()); print(s.recv(99).split()[1])"
            )
            node.directory.chmod(0o755)
            for verb, code in (("resume", "b'200'"), ("stop", "b'403'")):
                argv = ["/usr/bin/python3", "-c", ask, verb]
                done = subprocess.run(argv, user=65534, group=0, extra_groups=[], capture_output=True, text=True)
                assert done.stdout.strip() == code, done


def test_metrics_listener_serves_metrics_and_page_without_secrets() -> None:
    import urllib.request

    with supervised(server__telemetry__metrics_listen="127.0.0.1:0") as node:
        base = f"http://{node.status()['metrics_listen']}"

        def get(path: str) -> str:
            with urllib.request.urlopen(base + path) as answer:
                return str(answer.read().decode())

        assert get("/livez") == "alive\n"
        assert get("/readyz") == "serving\n"
        assert "<title>velocity-edge</title>" in get("/")
        assert "pid" not in json.loads(get("/status.json"))
        page = get("/metrics")
        names = [line.split("{")[0].split(" ")[0] for line in page.splitlines() if line and line[0] != "#"]
        assert "velocity_active_connections" in names
        assert "# TYPE velocity_http_requests_total counter" in page
        assert "pid" not in json.loads(get("/status.json"))["workers"][0]
        assert json.loads(get("/history.json?after=1"))["every_s"] == 10.0
        with pytest.raises(urllib.error.HTTPError, match="400"):
            get("/history.json?after=x")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(base + "/v1/status")


def test_reload_changes_the_number_of_workers() -> None:
    with supervised(workers=1, start=False) as node:
        del node.settings["server.listen"], node.settings["server.tls.self_signed"], node.settings["content.sites"]
        del node.settings["server.workers"]
        path = config_file(node)
        text = path.read_text()
        path.write_text(text.replace("server:", "server:\n  workers: 1"))
        node.start("--config", str(path))
        node.wait_until("one worker", lambda s: s["state"] == "serving" and len(s["workers"]) == 1)
        path.write_text(text.replace("server:", "server:\n  workers: 2"))
        node.wait_until("two workers", lambda s: sum(w["state"] == "ready" for w in s["workers"]) == 2)
