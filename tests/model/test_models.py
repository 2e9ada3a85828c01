"""Transitions that tests cannot exhaust are model-checked: each claim holds, and fails on the naive version."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("spin") is None or shutil.which("cc") is None, reason="needs spin and a C compiler"
    ),
]


def check(model: str, tmp_path: Path, *naive: str, liveness: bool = False) -> str:
    """Let spin explore *model* (compiled with the *naive* switches) and return its verdict."""
    subprocess.run(["spin", "-a", *naive, HERE / model], cwd=tmp_path, check=True, capture_output=True)
    how = ["-DNFAIR=3"] if liveness else ["-DSAFETY", "-DNOCLAIM"]
    subprocess.run(["cc", "-O2", "-w", *how, "-o", "pan", "pan.c"], cwd=tmp_path, check=True)
    arguments = ["-a", "-f"] if liveness else []
    done = subprocess.run(["./pan", "-m100000", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "max search depth too small" not in done.stdout, "the search was cut off"
    return done.stdout


def test_handshake_stays_on_one_worker_across_the_accept_switch(tmp_path: Path) -> None:
    assert "errors: 0" in check("steering.pml", tmp_path)


def test_every_handshake_completes(tmp_path: Path) -> None:
    assert "errors: 0" in check("steering.pml", tmp_path, liveness=True)


@pytest.mark.parametrize(
    ("naive", "broken"),
    [
        ("-DNO_PIN", "has1==has2"),
        ("-DNO_QUARANTINE", "assertion violated"),
        ("-DTRUST_STEERING", "assertion violated"),
    ],
)
def test_naive_accept_switch_violates_the_claim(naive: str, broken: str, tmp_path: Path) -> None:
    verdict = check("steering.pml", tmp_path, naive)
    assert broken in verdict
    assert "errors: 0" not in verdict


def test_every_worker_opens_every_ticket(tmp_path: Path) -> None:
    assert "errors: 0" in check("epochs.pml", tmp_path)


@pytest.mark.parametrize("naive", ["-DSEAL_AT_ONCE", "-DPERSIST_LATE"])
def test_naive_rotation_violates_the_claim(naive: str, tmp_path: Path) -> None:
    assert "assertion violated" in check("epochs.pml", tmp_path, naive)


def test_ids_decode_while_a_connection_holds_one(tmp_path: Path) -> None:
    assert "errors: 0" in check("cid_epochs.pml", tmp_path)


def test_more_than_two_epochs_can_be_live(tmp_path: Path) -> None:
    """Shown by a claim of the opposite, which must fail."""
    assert "errors: 1" in check("cid_epochs.pml", tmp_path, liveness=True)


@pytest.mark.parametrize("naive", ["-DTWO_LIVE", "-DOLD_COUNT", "-DTRUST_SILENCE"])
def test_naive_retirement_violates_the_claim(naive: str, tmp_path: Path) -> None:
    assert "assertion violated" in check("cid_epochs.pml", tmp_path, naive)
