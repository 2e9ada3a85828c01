"""`python -I -m supervisor`: runs a node. `velocity-edge serve` becomes this process (exec).

    --config FILE   the configuration            --set JSON    flags, as {"server.workers": 2}
    --edge-config FILE   a second one, merged into `content`
    --worker-program JSON   program to start instead of `python -I -m workers` (tests)
    --roll          restart adopted workers (an upgrade does)
    --check         with the same options: print the version if this installation could start a node, else the reason
    --probe         print the tier that this machine supports (`velocity-edge doctor`)
    --end-orphans   start nothing, end what a dead supervisor left (`velocity-edge admin stop --orphans`)

Exit codes: 0 (stopped as asked), 1 (failed), 5 (something that was asked for is not available), 78 (bad configuration),
70 (a bug).
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

from supervisor.admin.api import Admin
from supervisor.admin.describe import describe
from supervisor.admin.metrics_listener import listen
from supervisor.admin.service import Service
from supervisor.chores import periodic
from supervisor.chores.reloads import Reloads
from supervisor.chores.rotation import Rotation
from supervisor.chores.signals import Signals
from supervisor.chores.upgrades import Upgrades
from supervisor.machine.admin_socket import AdminSocket
from supervisor.machine.first_process import be_one_if_first
from supervisor.machine.privileges import drop_capabilities, prepare_exec
from supervisor.machine.spawn import WORKER_PROGRAM
from supervisor.parameters import worker_options
from supervisor.preflight import check
from supervisor.shell import Shell
from supervisor.startup import start
from supervisor.steering.probe import best_tier
from supervisor.succession.orphans import end_orphans
from supervisor.succession.state_file import StateFile, orphaned_workers
from velocity_edge import __version__, paths
from velocity_edge.config.load import load
from velocity_edge.config.model import Config
from velocity_edge.config.values import format_address, parse_address
from velocity_edge.errors import VelocityError
from velocity_edge.exits import exit_code
from velocity_edge.paths import Places
from velocity_edge.status.banner import banner
from velocity_edge.text import logs
from velocity_edge.text.lines import say_now
from velocity_edge.text.log_levels import parse_levels
from velocity_edge.text.printable import printable

log = logging.getLogger("supervisor")

#: What a new program may take until it feeds the watchdog: imports, workers to adopt, programs to load. 15 s were too
#: short on a machine with a load of ten times its CPUs: the watchdog ended the upgraded supervisor.
_UPGRADE_PATIENCE_S = 120.0


def main() -> int:
    """Run a node until it stops; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -I -m supervisor", description="Run a velocity-edge node.")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--edge-config", type=Path)
    parser.add_argument("--set", dest="overrides", type=orjson.loads, default={}, metavar="JSON")
    parser.add_argument("--worker-program", type=orjson.loads, default=None, metavar="JSON")
    parser.add_argument("--roll", action="store_true", help="restart adopted workers (an upgrade does)")
    parser.add_argument(
        "--check", action="store_true", help="print the version if a node could start with these options"
    )
    parser.add_argument("--probe", action="store_true", help="print the tier that this machine supports, as JSON")
    parser.add_argument("--end-orphans", action="store_true", help="start nothing, end what a dead supervisor left")
    parser.add_argument("--version", action="version", version=__version__)
    arguments = parser.parse_args()
    if not (arguments.check or arguments.end_orphans or arguments.probe):
        be_one_if_first()
    setproctitle.setproctitle("velocity-edge: supervisor starting")
    # The SIGABRT of a watchdog then prints where the process hung.
    faulthandler.enable()
    logs.begin("velocity-edge: %(message)s")

    if arguments.end_orphans:
        return _end_orphans()
    if arguments.probe:
        tier, missing = best_tier(paths.cache_dir())
        print(orjson.dumps({"tier": tier, "missing": missing}).decode())
        return 0

    def load_config() -> Config:
        return load(arguments.config, arguments.overrides, edge=arguments.edge_config)

    files = [path for path in (arguments.config, arguments.edge_config) if path is not None]

    try:
        if arguments.check:
            places = Places(paths.runtime_dir(), paths.state_dir(), paths.cache_dir())
            check(load_config(), places, arguments.worker_program)
            print(__version__)
            return 0
        return asyncio.run(_run(load_config, files, arguments.worker_program, arguments.roll))
    except VelocityError as error:
        for line in str(error).splitlines():
            _print(f"velocity-edge: {printable(line)}", 2)
        if not arguments.check and (alive := orphaned_workers(paths.runtime_dir())):
            # The operator who ran `serve` or an upgrade should know that the node still serves.
            _print(
                f"velocity-edge: {len(alive)} workers of this node go on serving without a supervisor; the next "
                "supervisor that starts, of this version or of the previous one, takes them over",
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


async def _run(load_config: Any, files: list[Path], worker_program: list[str] | None, roll: bool) -> int:
    config: Config = load_config()
    # Enough for the sockets, links and slabs of all slots, and for descriptors that are sent to workers.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    runtime = paths.private_directory(paths.runtime_dir(), mode=0o755)
    places = Places(runtime, paths.private_directory(paths.state_dir()), paths.cache_dir())
    state_file = StateFile(runtime)
    program = worker_program or [*WORKER_PROGRAM, *worker_options(config)]
    shell, begin = await start(config, places, state_file, program, roll=roll)
    # Before threads exist: each thread has its own capabilities, and logging starts one.
    try:
        drop_capabilities()
    except OSError as error:
        shell.notes.append(
            f"the supervisor keeps capabilities that it does not need: {error.strerror} (a seccomp filter?)"
        )
    telemetry = config.server.telemetry
    lines = logs.set_up("supervisor", structured=telemetry.structured_logs, level=config.server.log_level)
    lines.use(
        structured=telemetry.structured_logs,
        level=config.server.log_level,
        levels=parse_levels(config.server.log_levels),
    )
    shell.on_log_levels = lambda levels: lines.override(parse_levels(levels))
    try:
        reloads = Reloads(shell, load_config, files, lines, own_program=worker_program is not None)
        code = await _serve(shell, begin, reloads, config)
    finally:
        lines.close()
    if shell.successor:
        # It stays the same process for its parent, for its children and for the service manager.
        shell.manager.watchdog_within(_UPGRADE_PATIENCE_S)
        prepare_exec()
        os.execv(shell.successor[0], shell.successor)
    return code


async def _serve(shell: Shell, begin: Any, reloads: Reloads, config: Config) -> int:
    upgrades = Upgrades(shell)
    api = Admin(shell, Service(shell, reloads, upgrades))
    socket = AdminSocket(api.app, shell.places.runtime / "admin.sock")
    await socket.open()
    shell.troubles["admin.sock"] = socket.trouble
    page = None
    try:
        if config.server.telemetry.metrics_listen:
            address = parse_address(config.server.telemetry.metrics_listen)
            page, bound = await listen(api, shell, address)
            shell.metrics_address = format_address(bound)
        if not config.server.telemetry.structured_logs:
            shell.on_serving = lambda: _print(banner(describe(shell)), 1)
        shell.loop.set_exception_handler(_crash)
        Signals(shell, reloads, upgrades).listen()
        begin()
        async with asyncio.TaskGroup() as tasks:
            chores = [
                tasks.create_task(chore)
                for chore in (
                    reloads.watch_files(),
                    periodic.keep_files(shell, socket),
                    Rotation(shell).in_time(),
                    periodic.count_arrivals(shell),
                    periodic.watch_pressure(shell),
                    periodic.keep_history(shell),
                    periodic.feed_watchdog(shell),
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
        # Clients that wait for the node to stop get their last line now.
        await socket.close()
    if shell.successor:
        shell.let_go()
        return code
    if shell.node.failure:
        _print(f"velocity-edge: {printable(shell.node.failure)}", 2)
    return code


def _print(text: str, fd: int) -> None:
    """Print if the reader keeps up and the disk has room; the node neither depends on that nor waits for it."""
    if not say_now(fd, text):
        log.warning("cannot print a message: the reader of descriptor %d is too slow", fd)


def _crash(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exit at once on a bug: workers go on serving, and the next supervisor adopts them.

    asyncio would log an exception in a callback and continue with a node that is half changed.
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
