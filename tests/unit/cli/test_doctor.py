"""Invariant: the doctor finds a second owner of our package names, and its exit code is its worst finding."""

from __future__ import annotations

import json

import pytest

from velocity_edge.cli import main
from velocity_edge.cli.doctor import verdict
from velocity_edge.machine import Finding, Level, examine
from velocity_edge.machine.host import owners
from velocity_edge.machine.kernel import effective_capabilities


def test_a_second_owner_of_a_name_is_fatal() -> None:
    ours = {name: ["velocity-edge"] for name in ("velocity_edge", "supervisor", "workers", "bpf")}
    assert owners(ours).level is Level.FINE
    found = owners(ours | {"supervisor": ["velocity-edge", "supervisor"]})
    assert found.level is Level.FATAL
    assert found.text == "supervisor also by supervisor"


@pytest.mark.parametrize(
    ("levels", "code"),
    [([], 0), ([Level.FINE, Level.NOTE], 0), ([Level.LACKING, Level.FINE], 6), ([Level.LACKING, Level.FATAL], 1)],
)
def test_the_code_is_the_worst_finding(levels: list[Level], code: int) -> None:
    assert verdict([Finding("x", level, "y") for level in levels]) == code


def test_capabilities_are_read_from_the_kernels_text() -> None:
    assert effective_capabilities("CapEff:\t0000000000000400\n") == {"CAP_NET_BIND_SERVICE"}
    assert effective_capabilities("CapEff:\t000001ffffffffff\n") >= {"CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"}
    assert effective_capabilities("") == set()


def test_this_machine_can_be_examined(capsys: pytest.CaptureFixture[str]) -> None:
    """The real checks, on whatever machine this is: they answer, keep nothing, and agree with the exit code."""
    findings = examine()
    subjects = {finding.subject for finding in findings}
    assert {
        "kernel",
        "rights",
        "BPF",
        "bpffs",
        "GRO, GSO",
        "rmem buffer",
        "package names",
        "engine portable",
    } <= subjects
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--json"])
    shown = json.loads(capsys.readouterr().out)["findings"]
    assert {finding["subject"] for finding in shown} == subjects
    assert ended.value.code == verdict(findings)
