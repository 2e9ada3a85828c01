"""state.json keeps its format, in both directions: what version 1 wrote is read, and what is written is version 1's.

The texts are what earlier versions wrote, byte for byte; they are never changed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from supervisor.node.drain_contract import Contract, Phase, Terms
from supervisor.node.happenings import Quiesce, QuiesceMode, Started
from supervisor.node.node import Node
from supervisor.node.rollout import Rollout
from supervisor.node.state import Settings
from supervisor.succession import translate
from supervisor.succession.quiesced_file import QuiescedFile
from supervisor.succession.saved_state import SavedState, decode, encode
from supervisor.succession.state_file import boot_id
from velocity_edge.wire.messages import Listener

QUIESCED = (
    '"quiesced":{"mode":"discourage","reason":"CHG-1","announce_s":1.5,"spread_s":2.0,"deadline_s":3.0,"since_s":4.0}'
)
DRAIN = (
    '"drain":{"reason":"CHG-2","settle_below_per_s":2.0,"settle_s":20.0,"announce_max_s":60.0,"spread_s":5.0,'
    '"max_wait_s":600.0,"since_s":100.5,"phase":"live","phase_since_s":130.25,"proof":"measured: new<2/s for 20 s",'
    '"error":"","lost":3,"cut":2,"was_quiesced":true,"ordered":true,"released":false,"file_there":true}'
)
STATE = (
    '{"boot_id":"BOOT","cores":2,"cpus":[0,1],"target":2,"next_id":1,"revision":1,'
    f'"listeners":[{{"host":"127.0.0.1","port":443}}],"workers":[],"departed":[],{QUIESCED},"roll":true,{DRAIN},'
    '"adoptions":0,"rollout":{"cores":[0,1],"newcomer":3},"last_revision":4,"config":{"content":{}},"accepting":[],'
    '"version":1}'
)


def draining() -> Node:
    node = Node(Settings(2), target=2)
    node.quiesced = Quiesce(QuiesceMode.DISCOURAGE, "CHG-1", 1.5, 2.0, 3.0, 4.0)
    node.contract = Contract(
        Terms("CHG-2", 2.0, 20.0, 60.0, 5.0, 600.0),
        100.5,
        Phase.LIVE,
        130.25,
        "measured: new<2/s for 20 s",
        lost=3,
        cut=2,
        was_quiesced=True,
        ordered=True,
    )
    node.rollout = Rollout([0, 1], newcomer=3)
    return node


def left_behind(node: Node) -> SavedState:
    return translate.left_behind(
        node,
        {},
        boot_id="BOOT",
        cpus=[0, 1],
        listeners=[Listener("127.0.0.1", 443)],
        last_revision=4,
        config={"content": {}},
        roll=True,
    )


def test_what_is_written_is_what_earlier_versions_wrote() -> None:
    assert encode(left_behind(draining())).decode() == STATE


def test_what_earlier_versions_wrote_is_read() -> None:
    saved, node = decode(STATE.encode()), draining()
    assert (saved.drain, saved.quiesced) == (node.contract, node.quiesced)
    assert encode(saved).decode() == STATE
    happening = translate.started(saved, {}, (), node.settings, 200.0, roll=False)
    assert (happening.contract, happening.quiesced) == (node.contract, node.quiesced)


def test_what_was_saved_does_not_change_with_the_node() -> None:
    node = draining()
    saved = left_behind(node)
    assert node.contract is not None
    node.contract.lost = 99
    assert encode(saved).decode() == STATE


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    document = json.loads(STATE)
    for each in (document, document["drain"], document["quiesced"], document["rollout"]):
        each["mood"] = {"of": "a later version"}
    assert encode(decode(json.dumps(document).encode())).decode() == STATE


def test_fields_that_the_first_version_did_not_write_have_defaults() -> None:
    document = json.loads(STATE)
    for name in ("proof", "error", "lost", "cut", "was_quiesced", "ordered", "released", "file_there"):
        del document["drain"][name]
    for name in ("roll", "adoptions", "rollout", "last_revision", "config", "accepting"):
        del document[name]
    saved = decode(json.dumps(document).encode())
    assert saved.drain == Contract(Terms("CHG-2", 2.0, 20.0, 60.0, 5.0, 600.0), 100.5, Phase.LIVE, 130.25)
    del document["drain"]
    assert decode(json.dumps(document).encode()).drain is None


def test_a_phase_of_a_later_version_leaves_the_node_quiesced_without_a_drain() -> None:
    saved = decode(STATE.replace('"phase":"live"', '"phase":"later"').encode())
    assert saved.drain is None
    assert saved.quiesced is not None


@pytest.mark.parametrize("since_s", [1e300, -5.0])
def test_a_mode_of_a_later_version_or_an_invalid_time_still_keeps_clients_out(since_s: float) -> None:
    document = json.loads(STATE)
    document["quiesced"] |= {"mode": "later", "since_s": since_s}
    wish = decode(json.dumps(document).encode()).quiesced
    assert wish is not None
    assert wish.mode is QuiesceMode.GRACEFUL
    node = Node(Settings(1), target=1)
    node.handle(Started(quiesced=wish), 1000.0)
    assert node.quiesce_first is not None
    assert node.quiesce_first.since_s == 1000.0
    assert not node.accepts


def test_the_quiesced_file_has_the_format_of_earlier_versions_too(tmp_path: Path) -> None:
    file, node = tmp_path / "quiesced.json", draining()
    assert node.contract is not None
    node.contract.phase = Phase.DRAINED
    QuiescedFile(file).keep(node)
    text = "{" + f'"boot_id":"{boot_id()}",{QUIESCED},{DRAIN}'.replace('"live"', '"drained"') + "}"
    assert file.read_text() == text
    assert QuiescedFile(file).load() == Started(quiesced=node.quiesced, contract=node.contract)
