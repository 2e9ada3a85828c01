"""Invariant: a verb that fails has the exit code of its error, one line on standard error, and no traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.source_tree import module_graph
from velocity_edge.cli import VERBS, main
from velocity_edge.errors import CannotDo, ConfigError, Unavailable, Unreachable, VelocityError
from velocity_edge.exits import Exit, exit_code

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="run")
def _run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("VELOCITY_RUNTIME_DIR", str(tmp_path / "nobody"))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_each_class_of_errors_has_its_exit_code() -> None:
    assert [exit_code(e) for e in (ConfigError(), CannotDo(), Unavailable(), Unreachable(), VelocityError())] == [
        78, 5, 5, 3, 1,
    ]  # fmt: skip


def test_help_names_every_verb_and_imports_none() -> None:
    program = (
        "import sys; from velocity_edge.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('pydantic','ruamel','aioquic','cryptography',"
        "'aiohttp','pyroute2','orjson') or m.startswith('velocity_edge.cli.')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "['velocity_edge.cli.output']"
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_the_table_has_help(run: Run, verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == Exit.DONE
    assert out.startswith(f"Usage: velocity-edge {verb}")


def test_only_the_command_line_imports_the_command_line() -> None:
    """The supervisor has what both need from velocity_edge/status and velocity_edge/exits.py."""
    graph = module_graph()
    importers = {
        name for name, imported in graph.items() if any(f"{n}.".startswith("velocity_edge.cli.") for n in imported)
    }
    assert {name for name in importers if not f"{name}.".startswith("velocity_edge.cli.")} == {"velocity_edge.__main__"}


def test_without_a_verb_help_is_printed(run: Run) -> None:
    code, out, _ = run()
    assert code == Exit.DONE
    assert "serve" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["sreve"],
            2,
            "velocity-edge: cannot run 'sreve': no such verb; did you mean \"serve\"? (velocity-edge --help)",
        ),
        (["serve", "--prot", "x"], 2, "velocity-edge: No such option '--prot'"),
        (["status"], 3, "velocity-edge: cannot reach a node at "),
        (["health"], 3, "velocity-edge: cannot reach a node at "),
        (["admin", "quiesce"], 3, "velocity-edge: cannot reach a node at "),
        (["admin", "quiesce", "--timeout", "x"], 2, "velocity-edge: Invalid value for '--timeout': cannot use 'x'"),
        (["cid", "decode", "00"], 5, "velocity-edge: cannot open 00: 1 bytes; expected 20, the length"),
        (["cid", "decode", "xx"], 2, "velocity-edge: cannot read 'xx': expected hexadecimal digits"),
        (["config", "lint", "/nowhere"], 78, "/nowhere: cannot read the configuration: No such file or directory"),
    ],
)
def test_a_mistake_is_reported_in_one_line(run: Run, arguments: list[str], code: int, said: str) -> None:
    ended, out, err = run(*arguments)
    assert (ended, out) == (code, "")
    assert err.startswith(said), err
    assert err.count("\n") == 1


def test_a_closed_pipe_is_no_error() -> None:
    program = f"{sys.executable} -I -m velocity_edge config show --all | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
