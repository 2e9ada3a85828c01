"""Invariant: the doctor finds a second owner of our package names; its exit code follows from its worst finding."""

from __future__ import annotations

import json

import pytest

from velocity_edge.cli import main
from velocity_edge.cli.doctor import verdict
from velocity_edge.machine.doctor import examine
from velocity_edge.machine.findings import Finding, Level
from velocity_edge.machine.host import owners
from velocity_edge.machine.kernel import rights


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
def test_the_exit_code_follows_from_the_worst_finding(levels: list[Level], code: int) -> None:
    assert verdict([Finding("x", level, "y") for level in levels]) == code


def test_each_missing_capability_names_the_feature_that_needs_it() -> None:
    everything = (1 << 41) - 1
    assert rights(everything, "1024").level is Level.FINE
    found = rights(everything & ~(1 << 10 | 1 << 23), "1024")
    assert found.level is Level.LACKING
    assert found.text == "; ".join(
        ["without CAP_NET_BIND_SERVICE: ports from 1024", "without CAP_SYS_NICE: latency while workers start"]
    )
    assert rights(everything & ~(1 << 10), "0").level is Level.FINE, "in a container every port is free"


def test_the_real_checks_run_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """On any machine they return findings, leave nothing behind, and agree with the exit code."""
    findings = examine()
    subjects = {finding.subject for finding in findings}
    assert {
        "kernel",
        "rights",
        "system calls",
        "dispatch",
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
