"""`python -m bpf status|detach [INSTANCE]`: show what is pinned, or remove it; JSON on stdout.

It is a program because the command line (velocity_edge/cli/dispatch.py) may not import this package.
"""

from __future__ import annotations

import json
import sys

from bpf import BpfError, pins, report


def main(arguments: list[str]) -> object:
    """Return the value to print. Raises `BpfError`."""
    match arguments:
        case ["status"]:
            return [report.instance(name) for name in pins.instances()]
        case ["status", name]:
            return [report.instance(name)]
        case ["detach", name]:
            there = name in pins.instances()
            pins.Pins(name).remove()
            return {"instance": name, "detached": there}
        case _:
            raise BpfError("cannot understand the arguments; usage: python -m bpf status|detach [INSTANCE]")


if __name__ == "__main__":
    try:
        print(json.dumps(main(sys.argv[1:])))
    except BpfError as error:
        sys.exit(str(error))
    except PermissionError:
        sys.exit("cannot read the pinned programs: needs root")
