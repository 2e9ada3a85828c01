"""Installations side by side, as an operator has them: folders with an environment each, and a symlink to one of them.

    programs = Programs(directory); a = programs.install("a"); b = programs.install("b", SECOND)
    programs.use("a")               # `current` -> a, swapped as a deploy does it
    [programs.command, "serve", ...]

An installation has a copy of our packages and what they need from the environment of this run; `-I` finds nothing else.
A change is (file, existing text, replacement), or (file, None, text to add at its end).
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("velocity_edge", "supervisor", "workers", "bpf")
Change = tuple[str, str | None, str]


def _kind(name: str) -> str:
    fields = (
        f'@dataclass(frozen=True, slots=True, config=WIRE)\nclass {name}:\n    kind: Literal["{name}"] = "{name}"\n'
    )
    return f"\n{fields}\n"


def _last(name: str) -> str:
    """The field that every message ends with."""
    return f'    kind: Literal["{name}"] = "{name}"\n'


def _case(name: str) -> str:
    return f"            case m.{name}():\n                pass\n"


#: A later version: another number, another schema and shape of the maps, more fields, kinds of messages that we do not
#: have, and a cell more in the slabs, in front of all others.
SECOND: tuple[Change, ...] = (
    ("velocity_edge/__init__.py", '__version__ = "0.1.0"', '__version__ = "0.2.0"'),
    ("bpf/abi.py", "SCHEMA: Final = 1", "SCHEMA: Final = 2"),
    ("bpf/abi.py", "PIN_ENTRIES: Final = 65536", "PIN_ENTRIES: Final = 32768"),
    ("velocity_edge/wire/counters.py", "CELLS: Final = (*TOTALS", 'CELLS: Final = ("moods", *TOTALS'),
    (
        "workers/process/vitals.py",
        "        self._told = dict(counters)\n",
        '        self._slab.add({"moods": 1})\n        self._told = dict(counters)\n',
    ),
    ("velocity_edge/wire/orders.py", "\nOrder = Equip", _kind("Ponder") + "\nOrder = Ponder | Equip"),
    ("velocity_edge/wire/reports.py", "\nReport = Hello", _kind("Gossip") + "\nReport = Gossip | Hello"),
    ("velocity_edge/wire/messages.py", "    Activate,\n", "    Activate,\n    Ponder,\n"),
    ("velocity_edge/wire/messages.py", "    Drained,\n", "    Drained,\n    Gossip,\n"),
    ("velocity_edge/wire/reports.py", _last("Heartbeat"), '    mood: str = "good"\n' + _last("Heartbeat")),
    ("velocity_edge/wire/orders.py", _last("Equip"), "    later: int = 1\n" + _last("Equip")),
    # Every order to a worker is preceded by an order that only this version knows, every heartbeat by such a report.
    (
        "supervisor/worker_links.py",
        "        channel.send(order",
        "        channel.send(messages.Ponder())\n        channel.send(order",
    ),
    (
        "supervisor/node/reports.py",
        "        case messages.Held():",
        "        case messages.Gossip():\n            pass\n        case messages.Held():",
    ),
    ("workers/process/worker.py", "            case m.Equip():", _case("Ponder") + "            case m.Equip():"),
    (
        "workers/process/reporter.py",
        "        lag_s = self.lag.take_s()\n",
        "        self.supervision.report(m.Gossip())\n        lag_s = self.lag.take_s()\n",
    ),
)


def needed() -> list[Path]:
    """Return the folders of this run's environment that an installation takes what it needs from."""
    return [Path(path) for path in sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})]


class Programs:
    """The folder of installations. Where it is used in another mount namespace, *seen_as* is its path there, and
    *needed* are the paths there of needed()."""

    def __init__(self, directory: Path, seen_as: Path | None = None, needed: Iterable[Path] = needed()) -> None:
        self.directory = directory
        self.current = directory / "current"
        self._seen_as = seen_as or directory
        self._needed = list(needed)

    @property
    def command(self) -> Path:
        """The `velocity-edge` of the installation in use."""
        return self.current / "bin" / "velocity-edge"

    def install(self, name: str, changes: Iterable[Change] = (), tree: Path = REPOSITORY) -> Path:
        """Make an installation of *tree* with these changes; return its folder."""
        home = self.directory / name
        shutil.rmtree(home, ignore_errors=True)
        packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        packages.mkdir(parents=True)
        (home / "bin").mkdir()
        (home / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
        base = Path(os.path.realpath(sys.executable)).parent
        (home / "pyvenv.cfg").write_text(f"home = {base}\ninclude-system-site-packages = false\n")
        # The dependencies, without the tree itself: a .pth in a folder that a .pth names is not read.
        (packages / "needed.pth").write_text("".join(f"{path}\n" for path in self._needed))
        # As pip writes it: the first line names this folder, not the symlink to it.
        script = home / "bin" / "velocity-edge"
        main = "import sys\nfrom velocity_edge.cli import main\nsys.exit(main())\n"
        script.write_text(f"#!{self._seen_as / name}/bin/python\n{main}")
        script.chmod(0o755)
        for package in PACKAGES:
            shutil.copytree(tree / package, packages / package, ignore=shutil.ignore_patterns("__pycache__"))
        for file, there, instead in changes:
            path = packages / file
            text = path.read_text()
            if there is None:
                path.write_text(text + instead)
                continue
            assert there in text, f"{file} has changed: {there!r} is not in it"
            path.write_text(text.replace(there, instead, 1))
        return home

    def use(self, name: str) -> None:
        """Make *name* the installation in use."""
        aside = self.directory / "current.new"
        aside.symlink_to(name)
        aside.replace(self.current)
