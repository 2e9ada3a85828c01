"""What the supervisor does with the machine: sockets, slots, its state file, watched files, rights, notifications."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import startup
from supervisor.chores.watch import Signature, Watch, signature
from supervisor.machine import key_history, sockets, spawn
from supervisor.machine.slots import Slot, Slots
from supervisor.node.happenings import Started
from supervisor.succession import state_file as state
from supervisor.succession.quiesced_file import QuiescedFile
from supervisor.succession.saved_state import SavedState, SavedWorker
from supervisor.succession.state_file import StateFile, boot_id
from velocity_edge.errors import ConfigError, VelocityError
from velocity_edge.keys.document import DamagedKeys
from velocity_edge.keys.file import FileKeySource
from velocity_edge.keys.table import first_table
from velocity_edge.quic import single_use
from velocity_edge.quic.single_use import UsedTokens
from velocity_edge.wire import slab
from velocity_edge.wire.bundle import Bundle
from velocity_edge.wire.messages import Listener

LOOPBACK = Listener("127.0.0.1", 0)


def test_port_0_is_the_same_port_for_every_slot() -> None:
    listeners, [group] = sockets.open_listeners([LOOPBACK], 4)
    try:
        assert {s.getsockname()[1] for s in group} == {listeners[0].port}
        assert all(s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for s in group)
        assert not any(s.getblocking() or s.get_inheritable() for s in group)
    finally:
        for s in group:
            s.close()


def test_the_wildcard_serves_both_families_unless_ipv4_has_its_own_listener() -> None:
    for wanted, v6only in (([Listener("::", 0)], 0), ([Listener("::", 45671), Listener("127.0.0.1", 45671)], 1)):
        _, groups = sockets.open_listeners(wanted, 1)
        assert groups[0][0].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == v6only
        for group in groups:
            for s in group:
                s.close()


def test_an_address_that_is_not_ours_says_what_would_be_right() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(
        VelocityError, match=r"^cannot listen on 192.0.2.1:4433: this machine does not have that address"
    ):
        sockets.open_listeners([LOOPBACK, Listener("192.0.2.1", 4433)], 2)
    assert len(os.listdir("/proc/self/fd")) == before, "nothing stays open"


def test_drops_are_counted() -> None:
    listeners, [[s]] = sockets.open_listeners([LOOPBACK], 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(100):
            sender.sendto(bytes(1000), ("127.0.0.1", listeners[0].port))
    assert 80 < sockets.drops(s) < 100
    s.close()


def test_slots_come_back_as_they_were() -> None:
    slots = Slots.open([LOOPBACK, LOOPBACK], cores=2)
    try:
        assert len(slots) == 4
        assert len(slots.equipment(3)) == 2 + 1 + 4 + 1 + 1
        slots[3].slab.add({"requests": 5})
        copies = [os.dup(fd) for fd in slots[3].bundle.pack()]
        back = Slot.of(Bundle.unpack(copies, 2), 3)
        assert back.slab.read()["requests"] == 5
        assert [s.getsockname() for s in back.udp] == [s.getsockname() for s in slots[3].udp]
        back.link_send.send(b"stray")
        assert slots[3].link_receive.recv(10) == b"stray"
        back.close()
    finally:
        slots.close()


def used_tokens_of(slots: Slots) -> list[int]:
    """Return the inode of the used tokens that each slot carries."""
    carried = [[fd for fd in slot.bundle.pack() if single_use.is_ours(fd)] for slot in slots]
    assert carried == [[slot.used_tokens] for slot in slots]
    return [os.fstat(fds[0]).st_ino for fds in carried]


def test_used_tokens_are_one_for_all_slots_and_outlive_the_supervisor() -> None:
    """Also with slots that come back from workers of a version that does not know them, and with one opened anew."""
    slots = Slots.open([LOOPBACK], cores=2)
    [before] = set(used_tokens_of(slots))
    equipped = [os.fstat(fd).st_ino for fd in slots.equipment(2)]
    assert equipped.count(before) == 1
    held = {}
    for number in (0, 1, 3):
        copies = [os.dup(fd) for fd in slots[number].bundle.pack()]
        if number == 1:
            os.close(copies.pop())
        held[number] = Slot.of(Bundle.unpack(copies, 1), number)
    again, missing = Slots.adopt(slots.listeners, 2, held)
    assert missing == [2]
    assert set(used_tokens_of(again)) == {before}
    for each in (again, slots):
        each.close()


def test_a_node_that_lost_its_used_tokens_honours_none_of_before() -> None:
    slots = Slots.open([LOOPBACK], cores=1)
    held = {}
    for number, slot in enumerate(slots):
        copies = [os.dup(fd) for fd in slot.bundle.pack()]
        os.close(copies.pop())
        held[number] = Slot.of(Bundle.unpack(copies, 1), number)
    issued_s = time.time()
    again, _ = Slots.adopt(slots.listeners, 1, held)
    assert set(used_tokens_of(again)).isdisjoint(used_tokens_of(slots))
    used = UsedTokens(os.dup(again[0].used_tokens or 0))
    assert not used.first_use(bytes(12), issued_s - 0.01, issued_s)
    assert used.first_use(bytes(12), issued_s + 1, issued_s + 1)
    for each in (used, again, slots):
        each.close()


def saved(**changes: object) -> SavedState:
    worker = SavedWorker(7, 0, 0, os.getpid(), spawn.start_ticks(os.getpid()) or 0, False)
    values = {
        "boot_id": boot_id(),
        "cores": 1,
        "cpus": [0],
        "target": 1,
        "next_id": 8,
        "revision": 3,
        "listeners": [LOOPBACK],
        "workers": [worker],
        "departed": [],
        "quiesced": None,
    }
    return SavedState(**(values | changes))  # type: ignore[arg-type]


def test_state_survives_its_writer_and_only_one_may_write(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.save(saved())
    assert '"listeners":[{"host":"127.0.0.1","port":0}]' in (tmp_path / "state.json").read_text(), "as 0.1.0 writes it"
    with pytest.raises(VelocityError, match=f"process {os.getpid()}"):
        StateFile(tmp_path)
    file.close()
    after = StateFile(tmp_path)
    assert after.load() == saved()
    after.clear()
    assert after.load() is None
    after.close()


def load_changed(directory: Path, **change: object) -> SavedState | None:
    file = StateFile(directory)
    try:
        file.save(saved())
        path = directory / "state.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        return file.load()
    finally:
        file.close()


def test_state_of_another_boot_is_no_state(tmp_path: Path) -> None:
    assert load_changed(tmp_path, boot_id="another boot", version=99) is None


def test_state_of_a_later_version_that_means_the_same_is_used(tmp_path: Path) -> None:
    worker = {"worker_id": 7, "core": 0, "slot": 0, "pid": os.getpid(), "leaving": False, "mood": "good"}
    worker["start_ticks"] = spawn.start_ticks(os.getpid())
    assert load_changed(tmp_path, unknown=1, workers=[worker]) == saved()


def test_state_of_0_1_0_is_used(tmp_path: Path) -> None:
    """Byte for byte what that version writes; this text is never changed."""
    (tmp_path / "state.json").write_text(
        '{"boot_id":"BOOT","cores":1,"cpus":[0],"target":1,"next_id":8,"revision":3,'
        '"listeners":[{"host":"127.0.0.1","port":443}],'
        '"workers":[{"worker_id":7,"core":0,"slot":0,"pid":1,"start_ticks":5,"leaving":false}],'
        '"departed":[{"worker_id":6,"core":0,"slot":1,"until_s":99.5}],'
        '"quiesced":{"mode":"graceful","reason":"r","announce_s":0.0,"spread_s":1.0,"deadline_s":2.0,"since_s":3.0},'
        '"version":1}'.replace("BOOT", boot_id())
    )
    file = StateFile(tmp_path)
    state = file.load()
    file.close()
    assert state
    assert (state.next_id, state.workers[0].worker_id, state.departed[0].slot) == (8, 7, 1)
    assert state.quiesced
    assert state.quiesced.reason == "r"


def test_state_that_means_something_else_ends_the_start_while_its_workers_live(tmp_path: Path) -> None:
    with pytest.raises(VelocityError, match=rf"^cannot start: .*version 99.*process {os.getpid()}.* serve on"):
        load_changed(tmp_path, version=99)
    dead = {"pid": os.getpid(), "start_ticks": 1, "soul": "none"}
    assert load_changed(tmp_path, version=99, workers=[dead]) is None, "nobody is left who could lose anything"


@pytest.mark.parametrize(
    "change", [{"workers": "none"}, {"workers": [{}]}, {"cores": "many"}, {"version": "1"}], ids=str
)
def test_damaged_state_ends_the_start_because_nobody_knows_who_lives(tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(VelocityError, match=r"^cannot start: "):
        load_changed(tmp_path, **change)
    for nonsense in (b"{" * 1000, b"[]", b"", b"\xff"):
        (tmp_path / "state.json").write_bytes(nonsense)
        file = StateFile(tmp_path)
        with pytest.raises(VelocityError, match="is damaged"):
            file.load()
        file.close()


def test_a_slab_of_another_version_counts_on_and_is_replaced_by_name_for_the_next_worker() -> None:
    slots = Slots.open([LOOPBACK], cores=1)
    try:
        old = slab.create("old", ("requests", "from_the_future", "connections"))
        copies = [os.dup(fd) for fd in slots[1].bundle.pack()]
        for fd in (copies.pop(), copies.pop()):
            os.close(fd)  # the used tokens and the slab
        extra = os.memfd_create("of a later version")
        back = Slot.of(Bundle.unpack([*copies, old, extra], 1), 1)
        worker = slab.Slab(old)
        worker.add({"requests": 5})
        worker.set({"connections": 3})
        assert back.slab.read()["requests"] == 5
        assert back.bundle.pack()[-2:] == [old, extra], "what we do not know is kept for who does"
        assert back.renew_slab(1)
        assert not back.renew_slab(1), "once is enough"
        cells = back.slab.read()
        assert (cells["requests"], cells["connections"], back.slab.current) == (5, 0, True)
        back.close()
        worker.close()
    finally:
        slots.close()


def test_a_file_counts_as_changed_once_and_when_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("a")
    watch = Watch(signature([path]))
    assert not watch.changed(signature([path]))
    new = tmp_path / "new"
    new.write_text("bb")
    new.replace(path)  # as editors and Ansible do
    assert [watch.changed(signature([path])) for _ in range(3)] == [False, True, False]
    path.unlink()
    assert [watch.changed(signature([path])) for _ in range(3)] == [False, False, False]


def test_the_symlink_swap_of_a_config_map_is_a_change(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serve.yaml").write_text("same size")
    data, path = tmp_path / "..data", tmp_path / "serve.yaml"
    data.symlink_to("one")
    path.symlink_to("..data/serve.yaml")
    watch = Watch(signature([path]))
    (tmp_path / "tmp").symlink_to("two")
    (tmp_path / "tmp").replace(data)
    assert [watch.changed(signature([path])) for _ in range(2)] == [False, True]


def test_a_root_changes_when_its_path_names_another_folder_and_not_with_what_is_in_it(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
    root, file = tmp_path / "current", tmp_path / "serve.yaml"
    file.write_text("a")
    root.symlink_to("v1")

    def look(*more: Path) -> Signature:
        return signature([file], [root, *more])

    watch = Watch(look())
    (tmp_path / "v1" / "new.html").write_text("new")
    assert [watch.changed(look()) for _ in range(2)] == [False, False]
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(root)
    assert [watch.changed(look()) for _ in range(3)] == [False, True, False]
    assert [watch.changed(look(tmp_path / "v1")) for _ in range(3)] == [False] * 3, "another site, read just now"
    # A folder that is gone hides no change of a file; it counts when it is there again as another one.
    root.unlink()
    file.write_text("bb")
    assert [watch.changed(look()) for _ in range(3)] == [False, True, False]
    root.symlink_to("v1")
    assert [watch.changed(look()) for _ in range(3)] == [False, True, False]


def test_the_node_id_stays(tmp_path: Path) -> None:
    node_id = startup.kept_node_id(tmp_path / "state")
    assert startup.kept_node_id(tmp_path / "state") == node_id
    (tmp_path / "state" / "node-id").write_text("mine\n")
    with pytest.raises(ConfigError, match="cannot use"):
        startup.kept_node_id(tmp_path / "state")


def test_more_workers_than_cpus_share_them() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    assert startup.choose_cpus(None) == allowed
    assert startup.choose_cpus(1) == allowed, "slots for all of them: scaling up needs no new socket"
    assert len(startup.choose_cpus(3 * len(allowed))) == 3 * len(allowed)


# --- files that are not what they should be


def a_fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def a_folder(path: Path) -> None:
    path.mkdir()


def bytes_of_nothing(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\0")
    path.chmod(0o600)


def too_deep(path: Path) -> None:
    path.write_bytes(b"[" * 60_000)
    path.chmod(0o600)


@pytest.mark.parametrize("put", [a_fifo, a_folder, bytes_of_nothing, too_deep])
def test_something_else_in_the_place_of_a_file_is_a_sentence_and_keeps_nobody_waiting(
    tmp_path: Path, put: Callable[[Path], None]
) -> None:
    for name in ("state.json", "tickets.json", "node-id", "key-history.json", "quiesced.json", "supervisor.lock"):
        put(tmp_path / name)
    with pytest.raises(VelocityError, match=r"^cannot start: "):
        state.read_state(tmp_path)
    assert state.orphaned_workers(tmp_path) == []
    with pytest.raises(ConfigError, match="cannot read the keys"):
        FileKeySource(tmp_path / "tickets.json").load()
    with pytest.raises(ConfigError, match=r"^cannot "):
        startup.kept_node_id(tmp_path)
    assert key_history.load(tmp_path) == key_history.KeyHistory()
    assert QuiescedFile(tmp_path / "quiesced.json").load() == Started()


@pytest.mark.parametrize("text", ["", "x", "-1", "4294967296", "9" * 63, "²", "1\n2", "1.5"])
def test_a_node_id_is_a_number_of_32_bits(tmp_path: Path, text: str) -> None:
    (tmp_path / "node-id").write_text(text)
    with pytest.raises(ConfigError, match="a number of 32 bits would be right"):
        startup.kept_node_id(tmp_path)


@pytest.mark.parametrize("when", ["NaN", "1e999", "-Infinity"])
def test_keys_of_no_time_are_damaged(tmp_path: Path, when: str) -> None:
    FileKeySource(tmp_path / "t.json").store(first_table(bytes(32), 5.0))
    content = (tmp_path / "t.json").read_text().replace('"created_s": 5.0', f'"created_s": {when}')
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DamagedKeys, match="the creation time of epoch 1 is not finite"):
        FileKeySource(tmp_path / "t.json").load()
