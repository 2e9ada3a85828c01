"""Process 1 of a container reaps orphans, forwards signals from the start, and exits with the status of its child."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.machine.first_process import rename
from tests.support.waiting import poll

_REPOSITORY = Path(__file__).parents[4]
#: Leaves an orphan that ends soon, and then answers expressions until its input ends.
_PROGRAM = """
import os, signal, sys, time
from supervisor.machine.first_process import be_one_if_first
be_one_if_first()
if "early" in sys.argv:
    time.sleep(30)
signal.signal(signal.SIGHUP, lambda *_: print("HUP", flush=True))
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(0.2)
    os._exit(0)
os.wait()
print(os.getpid(), os.getpgid(0) == os.getpid(), flush=True)
for line in sys.stdin:
    print(eval(line), flush=True)
sys.exit(7)
"""
#: The processes beside process 1 and its child, zombies included.
_OTHERS = "sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid()))\n"


def start(*argv: str) -> subprocess.Popen[str]:
    launcher = _REPOSITORY / "tests" / "support" / "confine.py"
    return subprocess.Popen(
        [sys.executable, launcher, json.dumps({"pid": True}), sys.executable, "-c", _PROGRAM, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(_REPOSITORY)},
    )


@pytest.mark.root
def test_process_1_reaps_forwards_and_exits_as_its_child() -> None:
    with start() as process:
        assert process.stdin
        assert process.stdout
        pid, alone = process.stdout.readline().split()
        assert int(pid) != 1
        assert alone == "True", (
            "a terminal signals the group of process 1, which forwards: no process gets the signal twice"
        )

        def nobody_else() -> bool:
            assert process.stdin
            assert process.stdout
            process.stdin.write(_OTHERS)
            process.stdin.flush()
            return process.stdout.readline() == "[]\n"

        poll(nobody_else, "the orphan is reaped", 10)
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "HUP\n"
        process.stdin.close()
        assert process.wait(10) == 7


@pytest.mark.root
def test_a_signal_before_the_child_exists_is_forwarded() -> None:
    """The kernel would drop it: process 1 has no default action."""
    with start("early") as process:
        poll(lambda: _first_has_a_child(process.pid), "a first process with a child", 10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 128 + signal.SIGTERM


def _first_has_a_child(launcher: int) -> bool:
    """Whether the program runs as process 1 and has forked; before that the launcher has children of its own."""
    programs = [
        Path(f"/proc/{grandchild}/cmdline").read_bytes()
        for child in _children(launcher)
        for grandchild in _children(child)
    ]
    return any(b"be_one_if_first" in program and b"confine.py" not in program for program in programs)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_variables_for_process_1_name_its_child() -> None:
    environment = {"LISTEN_PID": "1", "WATCHDOG_PID": "17", "OTHER": "1"}
    rename(environment, 5)
    assert environment == {"LISTEN_PID": "5", "WATCHDOG_PID": "17", "OTHER": "1"}


def test_any_other_process_does_not_fork() -> None:
    code = (
        "import os; from supervisor.machine.first_process import *; "
        "a = os.getpid(); be_one_if_first(); print(a, os.getpid())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    before, after = done.stdout.split()
    assert before == after
