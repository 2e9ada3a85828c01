"""By default a node has a worker per CPU that it may use, within the CPU quota of its control group."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from velocity_edge.machine import cpus


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cpus, "_UNIFIED", (tmp_path / "unified",))
    monkeypatch.setattr(cpus, "_VERSION_1", (tmp_path / "cpu",))
    return tmp_path


def write(groups: Path, name: str, text: str) -> None:
    (groups / name).parent.mkdir(parents=True, exist_ok=True)
    (groups / name).write_text(text)


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("150000 100000\n", 1.5),
        ("max 100000\n", None),
        ("20000 100000\n", 0.2),
        ("0 100000\n", None),
        ("5 0\n", None),
        ("", None),
        ("?\n", None),
    ],
)
def test_the_quota_of_cgroup_version_2(groups: Path, text: str, quota: float | None) -> None:
    write(groups, "unified/a/b/cpu.max", text)
    assert min(cpus._quotas("0::/a/b\n"), default=None) == quota


def test_limits_of_ancestors_count_up_to_the_mount(groups: Path) -> None:
    write(groups, "unified/cpu.max", "400000 100000")
    write(groups, "unified/a/cpu.max", "100000 100000")
    write(groups, "unified/a/b/cpu.max", "max 100000")
    write(groups, "cpu.max", "1 100000")
    assert sorted(cpus._quotas("0::/a/b\n")) == [1.0, 4.0], "nothing above the mount"


def test_the_quota_of_cgroup_version_1(groups: Path) -> None:
    write(groups, "cpu/docker/x/cpu.cfs_quota_us", "250000\n")
    write(groups, "cpu/docker/x/cpu.cfs_period_us", "100000\n")
    write(groups, "cpu/cpu.cfs_quota_us", "-1\n")
    write(groups, "cpu/cpu.cfs_period_us", "100000\n")
    text = "5:cpuset:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/\n"
    assert list(cpus._quotas(text)) == [2.5]


def test_a_container_sees_its_own_group_as_the_root(groups: Path) -> None:
    """With version 1 the path is often that of the host, while the mount shows the group of the container."""
    write(groups, "cpu/cpu.cfs_quota_us", "50000")
    write(groups, "cpu/cpu.cfs_period_us", "100000")
    assert list(cpus._quotas("4:cpu:/docker/x\n")) == [0.5]


@pytest.mark.parametrize(("quota", "workers"), [(None, 4), (0.2, 1), (1.0, 1), (1.5, 2), (3.0, 3), (64.0, 4)])
def test_the_default_number_of_workers(monkeypatch: pytest.MonkeyPatch, quota: float | None, workers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3, 5, 7})
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    assert cpus.workers_by_default() == workers
