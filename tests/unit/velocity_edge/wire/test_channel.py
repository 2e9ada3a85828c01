"""A message arrives complete, once, in order and with its descriptors, or the channel is closed or reports an error."""

import os
import socket

import pytest

from velocity_edge.wire import channel as c
from velocity_edge.wire import messages as m


def channels() -> tuple[c.Channel[m.Report], c.Channel[m.Order]]:
    ours, theirs = c.pair()
    return c.Channel(ours, m.decode_report), c.Channel(theirs, m.decode_order)


def pump(sender: c.Channel[m.Report], receiver: c.Channel[m.Order]) -> list[c.Received[m.Order]]:
    received = receiver.receive()
    while sender.pending:
        sender.flush()
        received += receiver.receive()
    return received + receiver.receive()


def test_messages_arrive_in_order() -> None:
    supervisor, worker = channels()
    supervisor.send(m.Activate(1))
    supervisor.send(m.Stop())
    assert [r.message for r in worker.receive()] == [m.Activate(1), m.Stop()]


def test_a_message_of_a_later_version_is_skipped_with_its_descriptors_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ours, theirs = c.pair()
    worker = c.Channel(theirs, m.decode_order)
    before = len(os.listdir("/proc/self/fd"))
    fd = os.memfd_create("future")
    for _ in range(3):
        socket.send_fds(ours, [b'.{"kind":"Teleport"}'], [fd])
    os.close(fd)
    ours.send(b'.{"kind":"Stop"}')
    assert [(r.message, r.descriptors) for r in worker.receive()] == [(m.Stop(), [])]
    assert worker.unknown == {"Teleport": 3}
    assert caplog.text.count("Teleport") == 1
    assert len(os.listdir("/proc/self/fd")) == before
    for number in range(100):
        ours.send(b'.{"kind":"K%d"}' % number)
    for _ in range(2):  # bounded per call, as messages are
        worker.receive()
    assert len(worker.unknown) == c.MAX_UNKNOWN_KINDS
    ours.close()
    worker.close()


def test_a_message_larger_than_a_packet_arrives_complete() -> None:
    supervisor, worker = channels()
    order = m.Configure(1, {"text": "+." * 1_500_000}, [], [])
    supervisor.send(order)
    supervisor.send(m.Stop())
    assert [r.message for r in pump(supervisor, worker)] == [order, m.Stop()]


def test_more_descriptors_than_a_packet_takes_arrive_in_order() -> None:
    supervisor, worker = channels()
    files = [os.memfd_create(str(n)) for n in range(300)]
    supervisor.send(m.Keep(0), files)
    [received] = pump(supervisor, worker)
    names = [os.readlink(f"/proc/self/fd/{fd}").split()[0] for fd in received.descriptors]
    assert names == [f"/memfd:{n}" for n in range(300)]
    assert not any(os.get_inheritable(fd) for fd in received.descriptors)
    for fd in (*files, *received.descriptors):
        os.close(fd)


def test_the_sender_may_close_its_descriptors_at_once() -> None:
    supervisor, worker = channels()
    for _ in range(40):
        supervisor.send(m.Configure(1, {"text": "x" * 60_000}, [], []))
    assert supervisor.pending
    fd = os.memfd_create("late")
    supervisor.send(m.Keep(0), [fd])
    os.close(fd)
    *_, last = pump(supervisor, worker)
    assert os.readlink(f"/proc/self/fd/{last.descriptors[0]}").startswith("/memfd:late")
    os.close(last.descriptors[0])


def test_the_death_of_the_peer_is_an_end_of_file() -> None:
    supervisor, worker = channels()
    worker.send(m.Drained(0))
    worker.close()
    assert [r.message for r in supervisor.receive()] == [m.Drained(0)]
    assert supervisor.closed
    supervisor.send(m.Stop())
    assert not supervisor.pending


def test_the_queue_for_a_peer_that_never_reads_is_bounded() -> None:
    supervisor, _worker = channels()
    order = m.Configure(1, {"text": "x" * (c.MAX_MESSAGE_BYTES - 100)}, [], [])
    supervisor.send(order)
    supervisor.send(order)
    with pytest.raises(c.ChannelFull):
        supervisor.send(order)


@pytest.mark.parametrize("packet", [b"x", b".", b".{}", b"+" * 10 + b"."])
def test_invalid_packets_raise_message_error(packet: bytes) -> None:
    ours, theirs = c.pair()
    theirs.send(packet)
    if packet[:1] == b"+":
        theirs.send(b".")
    with pytest.raises(m.MessageError):
        c.Channel(ours, m.decode_report).receive()


def test_descriptors_of_a_broken_message_are_closed() -> None:
    ours, theirs = c.pair()
    before = set(os.listdir("/proc/self/fd"))
    fd = os.memfd_create("x")
    socket.send_fds(theirs, [b".junk"], [fd] * 20)
    os.close(fd)
    with pytest.raises(m.MessageError):
        c.Channel(ours, m.decode_report).receive()
    assert set(os.listdir("/proc/self/fd")) == before
