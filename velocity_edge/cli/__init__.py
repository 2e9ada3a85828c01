"""The command line: `velocity-edge VERB`, one verb per file.

`velocity-cli`, `velocity-server` and `velocity`, the names in the deployment guide, are the same program. A verb is
imported when it is used, because scripts call these commands in loops: `--help` imports click and little else. Errors
that a user can fix are one line on standard error and an exit code (velocity_edge/exits.py); bugs are tracebacks.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import Any, Final

import click

from velocity_edge import __version__
from velocity_edge.cli.output import show
from velocity_edge.errors import ConfigError, VelocityError
from velocity_edge.exits import Exit, exit_code

#: Verb -> where its click command is, and its line in `--help`.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("velocity_edge.cli.serve:serve", "Run a node that serves a folder, or a configuration."),
    "status": ("velocity_edge.cli.status:status", "Show the state of the node on one screen."),
    "health": ("velocity_edge.cli.health:health", "Report the health of the node in one line and an exit code."),
    "admin": (
        "velocity_edge.cli.admin:admin",
        "Change what the node does: quiesce, drain, resume, reload, restart, upgrade.",
    ),
    "tickets": (
        "velocity_edge.cli.tickets:tickets",
        "Rotate, back up and expire the keys of sessions and connection IDs.",
    ),
    "doctor": (
        "velocity_edge.cli.doctor:doctor",
        "Check this machine: what a node can use here, and what is missing.",
    ),
    "dispatch": ("velocity_edge.cli.dispatch:dispatch", "Show the packet programs, or detach them."),
    "client": ("velocity_edge.cli.client:client", "Fetch a URL over HTTP/3, or probe what a server supports."),
    "gateway": ("velocity_edge.cli.gateway:gateway", "Let HTTP/1.1 programs use a node: HTTP/1.1 in, HTTP/3 out."),
    "cid": ("velocity_edge.cli.cid:cid", "Decode the node and the worker in a connection ID."),
    "password": ("velocity_edge.cli.password:password", "Make an entry for a file of users (kind: basic)."),
    "config": ("velocity_edge.cli.config:config", "Check or show a configuration."),
}


class Verbs(click.Group):
    """A group that imports a verb when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import and return the verb *name*."""
        if name not in VERBS:
            return None
        module, _, attribute = VERBS[name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_, line) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; suggest one for a misspelt one."""
        if args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, 1)
            hint = f'; did you mean "{close[0]}"?' if close else f"; expected one of {', '.join(VERBS)}"
            raise click.UsageError(f"cannot run {args[0]!r}: no such verb{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="velocity-edge %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A post-quantum HTTP/3 edge node that restarts, reloads and upgrades without losing a connection.

    Try it:  velocity-edge serve --root public --self-signed
    """
    if ctx.invoked_subcommand is None:
        show(*ctx.get_help().splitlines())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        # Not cli.main(): it turns a broken pipe into an error.
        with cli.make_context("velocity-edge", list(sys.argv[1:] if arguments is None else arguments)) as context:
            result: Any = cli.invoke(context)
        sys.stdout.flush()
        sys.exit(result if isinstance(result, int) else Exit.DONE)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "velocity-edge"
        show(f"velocity-edge: {error.format_message()} ({where} --help)", err=True)
        sys.exit(Exit.USAGE)
    except ConfigError as error:
        # Each line begins with file:line:column, which editors and terminals can open.
        show(*str(error).splitlines(), err=True)
        sys.exit(Exit.BAD_CONFIG)
    except VelocityError as error:
        show(f"velocity-edge: {error}", err=True)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # `velocity-edge status | head` has closed the pipe. Python would raise again when it flushes at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.DONE)
