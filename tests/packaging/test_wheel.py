"""Invariant: the wheel has only the four packages at its top, with their files that are not Python."""

from __future__ import annotations

import configparser
import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TREE = Path(__file__).parents[2]
PACKAGES = ("velocity_edge", "supervisor", "workers", "bpf")


@pytest.fixture(scope="module", name="wheel")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run([*build, "--wheel-dir", str(out), str(TREE)], check=True, timeout=120)
    (built,) = out.glob("velocity_edge-*.whl")
    return zipfile.ZipFile(built)


def test_wheel_has_our_packages_only(wheel: zipfile.ZipFile) -> None:
    on_top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in on_top if not name.endswith(".dist-info")} == set(PACKAGES)


def test_wheel_has_every_source_file(wheel: zipfile.ZipFile) -> None:
    """Python, C for the kernel and for the native engine, the status page."""
    # The tree may belong to another user: a checkout of a CI system, a mounted folder.
    ask = ["git", "-c", "safe.directory=*", "-C", TREE, "ls-files", *PACKAGES]
    listed = subprocess.run(ask, capture_output=True, text=True, check=True)
    # A file that was deleted but not committed is not a fault of the wheel.
    expected = {name for name in listed.stdout.splitlines() if (TREE / name).exists()}
    assert {name for name in expected if name.endswith((".c", ".h", ".html"))}
    assert expected <= set(wheel.namelist())


def test_wheel_has_no_build_products(wheel: zipfile.ZipFile) -> None:
    assert not [name for name in wheel.namelist() if name.endswith((".so", ".pyc", ".o"))]


def test_wheel_installs_the_commands_and_forbids_upload(wheel: zipfile.ZipFile) -> None:
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    points = configparser.ConfigParser()
    points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert set(points["console_scripts"]) >= {"velocity-edge", "velocity-cli", "velocity-server", "velocity"}
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert "Private :: Do Not Upload" in metadata.get_all("Classifier", [])


@pytest.mark.parametrize("command", ["velocity-edge", "velocity-cli", "velocity-server", "velocity"])
def test_every_installed_command_runs(command: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / command, "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("velocity-edge ")
