"""`python -I -m supervisor`: run a node. `velocity-edge serve` becomes this process (exec).

    --config FILE   the configuration            --set JSON    flags, as {"server.workers": 2}
    --worker-program JSON   what to start instead of `python -I -m workers` (tests)
    --probe         which tier this machine could give a node (`velocity-edge doctor`)
    --check         with the same options: would this installation start? Says its version, or why not

Ends with 0 (stopped as asked), 1 (failed), 5 (what was asked for cannot be had), 78 (bad configuration).
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import resource
import sys
from pathlib import Path
from typing import Any

import orjson
import setproctitle

from supervisor.admin import api as admin
from supervisor.admin import metrics_listener as web
from supervisor.admin.describe import describe
from supervisor.chores.rotation import Rotation
from supervisor.chores.upkeep import Upkeep
from supervisor.machine.admin_socket import AdminSocket
from supervisor.machine.first_process import be_one_if_first
from supervisor.machine.places import Places
from supervisor.machine.privileges import drop_capabilities, prepare_exec
from supervisor.machine.spawn import WORKER_PROGRAM
from supervisor.shell import Shell
from supervisor.startup import check, start, worker_options
from supervisor.steering.probe import best_tier
from supervisor.succession.orphans import end_orphans
from supervisor.succession.state_file import StateFile, orphaned_workers
from velocity_edge import __version__, paths
from velocity_edge.config.load import load
from velocity_edge.config.model import Config
from velocity_edge.config.values import format_address, parse_address
from velocity_edge.errors import VelocityError
from velocity_edge.exits import exit_code
from velocity_edge.status.banner import banner
from velocity_edge.text import logs
from velocity_edge.text.lines import say_now
from velocity_edge.text.printable import printable

log = logging.getLogger("supervisor")

#: What a new program may take until it feeds the watchdog: imports, workers to adopt, programs to load. A quarter of a
#: minute was too short on a machine with ten times more work than CPUs, and ended the upgraded supervisor.
_UPGRADE_PATIENCE_S = 120.0


def main() -> int:
    """Run a node until it stops; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -I -m supervisor", description="Run a velocity-edge node.")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", dest="overrides", type=orjson.loads, default={}, metavar="JSON")
    parser.add_argument("--worker-program", type=orjson.loads, default=None, metavar="JSON")
    parser.add_argument("--roll", action="store_true", help="restart adopted workers (an upgrade does)")
    parser.add_argument("--check", action="store_true", help="say whether a node could start so, and which version")
    parser.add_argument("--probe", action="store_true", help="say which tier could be had here, as JSON")
    parser.add_argument("--end-orphans", action="store_true", help="start nothing: end what a dead supervisor left")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    if not (arguments.check or arguments.end_orphans or arguments.probe):
        be_one_if_first()
    setproctitle.setproctitle("velocity-edge: supervisor starting")
    # A watchdog's SIGABRT shall say where we hung.
    faulthandler.enable()
    logs.begin("velocity-edge: %(message)s")

    if arguments.end_orphans:
        return _end_orphans()
    if arguments.probe:
        tier, missing = best_tier(paths.cache_dir())
        print(orjson.dumps({"tier": tier, "missing": missing}).decode())
        return 0

    def load_config() -> Config:
        return load(arguments.config, arguments.overrides)

    try:
        if arguments.check:
            places = Places(paths.runtime_dir(), paths.state_dir(), paths.cache_dir())
            check(load_config(), places, arguments.worker_program)
            print(__version__)
            return 0
        return asyncio.run(_run(load_config, arguments.config, arguments.worker_program, arguments.roll))
    except VelocityError as error:
        for line in str(error).splitlines():
            _print(f"velocity-edge: {printable(line)}", 2)
        if not arguments.check and (alive := orphaned_workers(paths.runtime_dir())):
            # Whoever typed `serve`, or became us by an upgrade, should know that the node still answers.
            _print(
                f"velocity-edge: {len(alive)} workers of this node serve on without a supervisor; the next one that "
                "starts, of this version or of the one before, takes them over",
                2,
            )
        return exit_code(error)


def _end_orphans() -> int:
    try:
        print(end_orphans())
    except VelocityError as error:
        print(f"velocity-edge: {error}", file=sys.stderr)
        return exit_code(error)
    return 0


async def _run(load_config: Any, file: Path | None, worker_program: list[str] | None, roll: bool) -> int:
    config: Config = load_config()
    # Sockets, links and slabs of all slots, and what is on its way to workers.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    runtime = paths.private_directory(paths.runtime_dir(), mode=0o755)
    places = Places(runtime, paths.private_directory(paths.state_dir()), paths.cache_dir())
    state_file = StateFile(runtime)
    program = worker_program or [*WORKER_PROGRAM, *worker_options(config)]
    shell, begin = await start(config, places, state_file, program, roll=roll)
    # Before there are threads: capabilities belong to threads, and logging has one.
    try:
        drop_capabilities()
    except OSError as error:
        shell.notes.append(f"the supervisor keeps rights that it does not need: {error.strerror} (a seccomp filter?)")
    telemetry = config.server.telemetry
    lines = logs.set_up("supervisor", structured=telemetry.structured_logs, level=config.server.log_level)
    try:
        upkeep = Upkeep(shell, load_config, file, lines, own_program=worker_program is not None)
        code = await _serve(shell, begin, upkeep, config)
    finally:
        lines.close()
    if shell.successor:
        # The same process: our parent, the workers' parent and the service manager notice nothing.
        shell.manager.watchdog_within(_UPGRADE_PATIENCE_S)
        prepare_exec()
        os.execv(shell.successor[0], shell.successor)
    return code


async def _serve(shell: Shell, begin: Any, upkeep: Upkeep, config: Config) -> int:
    api = admin.Admin(shell, upkeep)
    socket = AdminSocket(api.app, shell.places.runtime / "admin.sock")
    await socket.open()
    shell.troubles["admin.sock"] = socket.trouble
    page = None
    try:
        if config.server.telemetry.metrics_listen:
            address = parse_address(config.server.telemetry.metrics_listen)
            page, bound = await web.listen(api, shell, address)
            shell.metrics_address = format_address(bound)
        if not config.server.telemetry.structured_logs:
            shell.on_serving = lambda: _print(banner(describe(shell)), 1)
        shell.loop.set_exception_handler(_crash)
        upkeep.listen_to_signals()
        begin()
        async with asyncio.TaskGroup() as tasks:
            chores = [
                tasks.create_task(chore)
                for chore in (
                    upkeep.watch_files(),
                    upkeep.keep_files(socket),
                    Rotation(shell).in_time(),
                    upkeep.count_arrivals(),
                    upkeep.watch_pressure(),
                    upkeep.feed_watchdog(),
                )
            ]
            code = await shell.finished
            for chore in chores:
                chore.cancel()
        if page is not None:
            await page.cleanup()
        if not shell.successor:
            shell.close()
    finally:
        # Those who wait for the end of the node hear of it now.
        await socket.close()
    if shell.successor:
        shell.let_go()
        return code
    if shell.node.failure:
        _print(f"velocity-edge: {printable(shell.node.failure)}", 2)
    return code


def _print(text: str, fd: int) -> None:
    """Print, where somebody reads or the disk has room; a node does not live from that, nor wait for it."""
    if not say_now(fd, text):
        log.warning("cannot print what a person might want to read: the reader of descriptor %d is too slow", fd)


def _crash(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Die of a bug, at once: workers serve on, and whoever starts us again adopts them.

    asyncio would log an exception in a callback and go on with a node that is half changed.
    """
    error = context.get("exception")
    if error is None or isinstance(error, ConnectionError):
        loop.default_exception_handler(context)
        return
    logging.getLogger("supervisor").critical("bug: %s", context.get("message"), exc_info=error)
    logs.flush()
    os._exit(70)


if __name__ == "__main__":
    sys.exit(main())
