"""Where a node keeps its files. Which directories these are is decided in velocity_edge/paths.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """Where the node keeps its files."""

    runtime: Path
    state: Path
    cache: Path

    @property
    def disable_file(self) -> Path:
        """What ExaBGP's healthcheck and anycast-healthchecker look for: while it is there, routes are withdrawn."""
        return self.runtime / "disabled"

    @property
    def disabled(self) -> bool:
        """Whether it is there, as far as we can see."""
        try:
            self.disable_file.stat()
        except OSError:
            return False
        return True

    @property
    def workers_socket(self) -> Path:
        """Where workers look for a supervisor after this one."""
        return self.runtime / "workers.sock"
