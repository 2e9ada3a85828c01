"""python -I -m workers --worker-id N --slot S --cpu C --channel FD [--engine auto|native|portable] [--user NAME]
   python -I -m workers --engine NAME [--user NAME] --check    say whether a worker could start here, and which version

Started by the supervisor, which sends everything else over the channel. Everything is imported here, before the
privileges are dropped: afterwards neither this program nor the interpreter may be readable.

The supervisor may be of another version, so options of a later one are ignored.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

from velocity_edge import __version__
from velocity_edge.errors import VelocityError
from velocity_edge.machine.worker_user import Rights
from velocity_edge.machine.worker_user import choose as choose_user
from velocity_edge.quic.open_engine import choose_engine
from velocity_edge.text import logs
from velocity_edge.text.lines import say_now
from velocity_edge.wire.messages import EXIT_OUT_OF_MEMORY
from workers.process import preload, scheduling
from workers.process.privileges import drop
from workers.process.state import Identity
from workers.process.vitals import Memory
from workers.process.worker import Worker

log = logging.getLogger("workers")

#: Longer than the supervisor waits (5 s), which counts it; this is for a worker without a supervisor.
_END_WITHIN_S: Final = 10
#: Objects that live as long as the process are frozen, and the garbage collector runs less often: a full collection
#: over 10,000 connections would be a pause of tens of milliseconds.
_GC_THRESHOLDS: Final = (50_000, 20, 100)


def main() -> int:
    """Run one worker. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -I -m workers", description="One worker of a velocity-edge node.")
    parser.add_argument("--worker-id", type=int, required=True)
    parser.add_argument("--slot", type=int, required=True)
    parser.add_argument("--cpu", type=int, required=True)
    parser.add_argument("--channel", type=int, required=True, help="descriptor of the SEQPACKET channel")
    parser.add_argument("--engine", choices=("auto", "native", "portable"), default="auto")
    parser.add_argument("--user", default=None, help="user to change to when started by root")
    parser.add_argument("--check", action=_Check, help="import everything, and exit")
    arguments, unknown = parser.parse_known_args()
    logs.begin(f"%(asctime)s worker {arguments.worker_id} %(levelname)s %(message)s")
    if unknown:
        log.warning("ignoring options of another version: %s", " ".join(unknown))
    try:
        return asyncio.run(_run(arguments))
    except VelocityError as error:
        log.error("%s", error)
        return 1
    except MemoryError:
        _out_of_memory()
    except BaseExceptionGroup as group:
        if group.subgroup(MemoryError):
            _out_of_memory()
        raise


class _Check(argparse.Action):
    """Ends the program: the options before this one select what is checked."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: Any) -> None:
        try:
            choose_user(namespace.user, Rights.of_this_process())
            choice = choose_engine(namespace.engine)
        except VelocityError as error:
            parser.exit(1, f"{error}\n")
        preload.everything()
        print(f"{__version__}, engine {choice.name}")
        parser.exit()


async def _run(arguments: argparse.Namespace) -> int:
    scheduling.settle(arguments.cpu)
    user = choose_user(arguments.user, Rights.of_this_process()).user
    if user is None:
        log.info("this worker runs as user id %d, the user of its supervisor, without capabilities", os.geteuid())
    choice = choose_engine(arguments.engine)
    _raise_open_files()
    preload.everything()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:

        def drop_privileges() -> None:
            scheduling.raise_priority()
            drop(user)

        def start_task(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            return tasks.create_task(coroutine)

        worker = Worker(
            Identity(arguments.worker_id, arguments.slot, arguments.cpu, choice.name, choice.reason),
            choice.open,
            loop,
            start_task,
            drop_privileges,
            Memory(),
        )
        _answer_signals(loop, worker)
        loop.set_exception_handler(_crash)
        await worker.run(socket.socket(fileno=arguments.channel))
        # A handler that does not end, or a log that is not read, must not keep the sockets: SIGALRM ends the process.
        signal.alarm(_END_WITHIN_S)
        worker.close()
    if late := preload.late():
        log.warning(
            "imported after the privileges were dropped: %s (a bug: preload.py must name them)", ", ".join(late)
        )
    return 0


def _answer_signals(loop: asyncio.AbstractEventLoop, worker: Worker) -> None:
    """Ctrl-C and a service manager signal the whole group: a worker ignores it while it has a supervisor."""

    def on_signal() -> None:
        if worker.supervision.orphaned:
            worker.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _crash(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exit at once because of a bug: the supervisor starts a successor, which answers the connections with resets.

    asyncio would log an exception in a callback and continue with a worker in an undefined state.
    """
    error = context.get("exception")
    if isinstance(error, MemoryError):
        _out_of_memory()
    if isinstance(error, VelocityError):
        log.error("%s", error)
        logs.flush()
        os._exit(1)
    log.critical("bug: %s", context.get("message"), exc_info=error)
    logs.flush()
    os._exit(70)


def _out_of_memory() -> NoReturn:
    """Exit at once: the state of an engine is undefined after a failed allocation, and a successor begins small."""
    say_now(2, "velocity-edge: worker: cannot continue: out of memory")
    os._exit(EXIT_OUT_OF_MEMORY)


def _raise_open_files() -> None:
    """Raise the limit of open files to the hard limit: files being sent and links need descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
