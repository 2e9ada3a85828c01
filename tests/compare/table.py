"""`python -m tests.compare.table`: the comparison as Markdown, for docs/compare.md.

It prints, per group of cases, how many each server passes, and one row for each case in which they differ.
"""

from __future__ import annotations

import asyncio
import sys

from tests.compare import run
from tests.compare.cases import FILES, PROXIED
from tests.compare.recorder import Recorder
from tests.compare.smuggling import cases
from tests.compare.subjects import OURS, PEERS, running


def main() -> int:
    names = [name for name in (*OURS, *PEERS) if not sys.argv[1:] or name in sys.argv[1:]]
    found: dict[str, dict[str, run.Results]] = {}
    for name in names:
        with Recorder() as recorder, running(name, recorder.port) as port:
            found[name] = asyncio.run(_all(port, recorder))
        print(f"compared {name}", file=sys.stderr)
    must = {case.name for case in (*FILES, *PROXIED) if case.must} | {case.name for case in cases()}
    for group in ("files", "proxy", "smuggling"):
        results = {name: found[name][group] for name in names}
        first = results[names[0]]
        print(f"\n### {group}: {len(first)} cases\n\n| | " + " | ".join(names) + " |\n| --- |" + " --- |" * len(names))
        passed = [sum(not wrong for wrong, _ in results[name].values()) for name in names]
        print("| passed | " + " | ".join(f"{count} of {len(first)}" for count in passed) + " |")
        for case in first:
            if any(results[name][case][0] for name in names):
                cells = [results[name][case][0] or f"ok ({results[name][case][1]})" for name in names]
                label = case if case in must else f"{case} (optional)"
                print(f"| {label} | " + " | ".join(cell.replace("|", "\\|")[:70] for cell in cells) + " |")
    return 0


async def _all(port: int, recorder: Recorder) -> dict[str, run.Results]:
    return {
        "files": await run.files(port),
        "proxy": await run.proxied(port, recorder),
        "smuggling": await run.smuggling(port, recorder),
    }


if __name__ == "__main__":
    sys.exit(main())
