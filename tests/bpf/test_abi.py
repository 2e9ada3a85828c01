"""bpf/abi.py and bpf/verdicts.py have the same offsets, sizes and names as bpf/maps.h."""

from __future__ import annotations

import ctypes
import json
import subprocess
from pathlib import Path

import pytest

from bpf import abi, loader, verdicts
from velocity_edge.quic.datagrams import MUST_RETRY_DSCP
from velocity_edge.quic.limits import Limits
from velocity_edge.wire.cid import CID_LENGTH

BPF = Path(__file__).parents[2] / "bpf"

STRUCTS: dict[str, type[ctypes.Structure]] = {
    "quic_key": abi.Key,
    "quic_keys": abi.Keys,
    "rate": abi.Rate,
    "listener": abi.Listener,
    "settings": abi.Settings,
    "worker": abi.Worker,
    "pin_key": abi.PinKey,
    "pin": abi.Pin,
    "buckets": abi.Buckets,
    "deny4_key": abi.Deny4Key,
    "deny6_key": abi.Deny6Key,
    "counters": abi.Counters,
}
CONSTANTS = ("MAX_LISTENERS", "ACCEPT_ENTRIES", "ACCEPT_VALID", "LIMIT_ENTRIES", "LIMITS", "COUNTERS_PER_STAGE")


def in_c(tmp_path: Path, body: str) -> dict[str, int | str]:
    """Compile and run statements that print `"name": value,` lines."""
    source = f'#include "maps.h"\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\nputs("{{");\n{body}\n'
    source += 'puts("\\"\\": 0}");\nreturn 0;\n}\n'
    program = tmp_path / "abi"
    subprocess.run(["cc", "-Wall", f"-I{BPF}", "-xc", "-", "-o", str(program)], input=source.encode(), check=True)
    output = subprocess.run([str(program)], capture_output=True, check=True).stdout
    found: dict[str, int | str] = json.loads(output)
    found.pop("")
    return found


def number(expression: str) -> str:
    return f'printf("\\"%s\\": %lu,\\n", "{expression}", (unsigned long)({expression}));'


def test_structs_have_the_same_layout(tmp_path: Path) -> None:
    expected: dict[str, int] = {}
    for name, structure in STRUCTS.items():
        expected[f"sizeof(struct {name})"] = ctypes.sizeof(structure)
        if name == "quic_key":  # two words in C, the 16 bytes of the key in Python
            continue
        for field in structure._fields_:
            expected[f"offsetof(struct {name}, {field[0]})"] = getattr(structure, field[0]).offset
    assert in_c(tmp_path, "\n".join(map(number, expected))) == expected


def test_constants_are_equal(tmp_path: Path) -> None:
    expected = {name: getattr(abi, name) for name in CONSTANTS}
    expected |= {"FAMILY_IPV4": abi.FAMILY_IPV4, "FAMILY_IPV6": abi.FAMILY_IPV6, "QUIC_HEAD_LENGTH": abi.HEAD_BYTES}
    expected |= {"LIMIT_INITIAL": abi.LIMIT_INITIAL, "LIMIT_TOKEN": abi.LIMIT_TOKEN}
    expected |= {"LIMIT_ZERO_RTT": abi.LIMIT_ZERO_RTT, "LIMIT_VERSION": abi.LIMIT_VERSION}
    expected |= {"QUIC_CID_LENGTH": CID_LENGTH}
    assert in_c(tmp_path, "\n".join(map(number, expected))) == expected


def test_verdicts_have_the_same_names(tmp_path: Path) -> None:
    """Also that drops begin at the same index, and that no stage has more names than counter cells."""
    body = ""
    for stage in ("XDP", "SELECT", "CPUMAP"):
        lists = (
            [f"{stage}_VERDICTS"] if stage == "CPUMAP" else [f"{stage}_PASSED_VERDICTS", f"{stage}_DROPPED_VERDICTS"]
        )
        body += f'#define PRINT(name) printf("\\"{stage} %d\\": \\"" #name "\\",\\n", {stage}_##name);\n'
        body += "\n".join(f"{each}(PRINT)" for each in lists) + "\n#undef PRINT\n"
    body += number("XDP_DROPPED") + number("SELECT_DROPPED") + number("STAGES")
    expected: dict[str, int | str] = {
        f"{stage.upper()} {index}": name for stage, names in verdicts.STAGES.items() for index, name in enumerate(names)
    }
    expected["XDP_DROPPED"] = next(i for i, name in enumerate(verdicts.XDP) if name.startswith("dropped"))
    expected["SELECT_DROPPED"] = next(i for i, name in enumerate(verdicts.SELECT) if name.startswith("dropped"))
    expected["STAGES"] = len(verdicts.STAGES)
    assert in_c(tmp_path, body) == expected
    for names in verdicts.STAGES.values():
        assert len(names) <= abi.COUNTERS_PER_STAGE
        assert len(set(names)) == len(names)


def test_maps_are_in_the_same_order() -> None:
    header = (BPF / "maps.h").read_text()
    inside = header[header.index("enum map {") : header.index("};", header.index("enum map {"))]
    assert [word.strip(" ,\n\t") for word in inside[len("enum map {") :].split(",")] == [
        f"MAP_{spec.name}" for spec in abi.MAPS
    ]


def test_must_retry_dscp_equals_that_of_the_workers() -> None:
    assert f"MUST_RETRY_TOS ({MUST_RETRY_DSCP:#04x} << 2)" in (BPF / "xdp.c").read_text()


def test_a_pin_outlives_a_handshake() -> None:
    lifetime = int((BPF / "maps.h").read_text().split("#define PIN_LIFETIME ")[1].split()[0])
    assert Limits().handshake_timeout_s < lifetime * 2**30 / 1e9 < 60


@pytest.mark.parametrize("source", ["xdp.c", "reuseport.c"])
def test_every_program_is_known_to_the_loader(source: str) -> None:
    text = (BPF / source).read_text()
    written = {line.split("(")[1].split(")")[0] for line in text.splitlines() if line.startswith("PROGRAM(")}
    assert written == {name for name, kind in loader.PROGRAMS.items() if kind.source == source}
