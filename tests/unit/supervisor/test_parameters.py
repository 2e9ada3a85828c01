"""What a node derives from its machine: its number and its CPUs."""

import os
from pathlib import Path

import pytest

from supervisor import parameters
from velocity_edge.errors import ConfigError


def test_the_node_id_is_chosen_once(tmp_path: Path) -> None:
    node_id = parameters.kept_node_id(tmp_path / "state")
    assert parameters.kept_node_id(tmp_path / "state") == node_id
    (tmp_path / "state" / "node-id").write_text("mine\n")
    with pytest.raises(ConfigError, match="cannot use"):
        parameters.kept_node_id(tmp_path / "state")


def test_more_workers_than_cpus_share_them() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert parameters.choose_cpus(None) == allowed
    assert parameters.choose_cpus(1) == allowed, "slots for all of them: scaling up needs no new socket"
    assert len(parameters.choose_cpus(3 * len(allowed))) == 3 * len(allowed)


@pytest.mark.parametrize("text", ["", "x", "-1", "4294967296", "9" * 63, "²", "1\n2", "1.5"])
def test_a_node_id_is_a_number_of_32_bits(tmp_path: Path, text: str) -> None:
    (tmp_path / "node-id").write_text(text)
    with pytest.raises(ConfigError, match="expected a number of 32 bits"):
        parameters.kept_node_id(tmp_path)
