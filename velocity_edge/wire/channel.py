"""How messages travel between the supervisor and a worker: packets on a SOCK_SEQPACKET pair, with descriptors.

The first byte of a packet says whether the message ends with it (`.`) or goes on (`+`): a configuration with many
certificates is longer than what one packet may be, and the kernel takes at most 253 descriptors per packet
(SCM_MAX_FD). Everything is bounded and nothing blocks: what the peer does not take at once waits here, and a peer that
lets more than `MAX_QUEUED_BYTES` wait is broken (`ChannelFull`).

This file decides how bytes travel, not what they mean (messages.py) nor what to do about a broken peer (the supervisor
kills the worker; a worker goes on serving and looks for a successor of the supervisor). A message of a kind that only
another version has is skipped here, counted, and said once.

A surprise: an empty packet and an end of file look the same on SEQPACKET. The first byte settles that, too.
"""

from __future__ import annotations

import array
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from velocity_edge.wire.messages import Message, MessageError, UnknownKind, encode

log = logging.getLogger(__name__)

#: Payload of one packet. Far below net.core.wmem_default (208 KiB), so that a fresh pair always takes one.
MAX_PACKET_BYTES: Final = 64 * 1024
#: Descriptors in one packet; the kernel's limit is 253 (SCM_MAX_FD).
MAX_PACKET_DESCRIPTORS: Final = 250
#: One message: certificates and keys of some hundred sites. Who sends more is broken, not large.
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
#: Listeners and hand-over links of a node with 512 slots.
MAX_MESSAGE_DESCRIPTORS: Final = 1024
#: What may wait for a peer that does not read.
MAX_QUEUED_BYTES: Final = 2 * MAX_MESSAGE_BYTES
#: Different unknown kinds that are counted by name. A version that is so far away is not ours.
MAX_UNKNOWN_KINDS: Final = 32
#: Messages per `receive`, so that a talkative peer cannot keep the loop busy.
MAX_MESSAGES_PER_RECEIVE: Final = 64

_MORE: Final = b"+"
_LAST: Final = b"."
_INT_BYTES: Final = array.array("i").itemsize

M = TypeVar("M", bound=Message)


class ChannelFull(Exception):
    """The peer has not read for so long that more than `MAX_QUEUED_BYTES` wait."""


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """A message and the descriptors that came with it, which are the receiver's to close."""

    message: M
    descriptors: list[int]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel, both non-blocking and close-on-exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


class Channel(Generic[M]):
    """One end. `decode` is `messages.decode_report` for a supervisor, `messages.decode_order` for a worker."""

    def __init__(self, end: socket.socket, decode: Callable[[bytes], M]) -> None:
        end.setblocking(False)
        self._end = end
        self._decode = decode
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._queued_bytes = 0
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._descriptors: list[int] = []
        #: The peer is gone: nothing more will be received, and what is sent is dropped.
        self.closed = False
        #: Kinds that only the peer's version has -> how many were skipped.
        self.unknown: dict[str, int] = {}

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._end.fileno()

    @property
    def pending(self) -> bool:
        """Whether packets wait for the peer: call `flush` when the channel is writable."""
        return bool(self._queue)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send *message*, with copies of *descriptors*; what does not fit now goes out with `flush`.

        Raises `ChannelFull`. A peer that is gone is no error here: its end of file tells the reader.
        """
        if self.closed:
            return
        data = encode(message)
        if self._queued_bytes + len(data) > MAX_QUEUED_BYTES:
            raise ChannelFull(f"{self._queued_bytes} bytes wait, and {type(message).__name__} has {len(data)} more")
        packets = [data[i : i + MAX_PACKET_BYTES] for i in range(0, len(data), MAX_PACKET_BYTES)]
        bundles = [
            descriptors[i : i + MAX_PACKET_DESCRIPTORS] for i in range(0, len(descriptors), MAX_PACKET_DESCRIPTORS)
        ]
        count = max(len(packets), len(bundles))
        for index in range(count):
            head = _LAST if index == count - 1 else _MORE
            # Descriptors and bytes are cut independently; a packet may have only one of the two.
            part = packets[index] if index < len(packets) else b""
            bundle = bundles[index] if index < len(bundles) else ()
            self._queue.append((head + part, [os.dup(fd) for fd in bundle]))
            self._queued_bytes += 1 + len(part)
        self.flush()

    def flush(self) -> None:
        """Send what the kernel takes now."""
        while self._queue:
            packet, descriptors = self._queue[0]
            try:
                socket.send_fds(self._end, [packet], descriptors, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
                self._drop_queue()
                return
            self._queue.popleft()
            self._queued_bytes -= len(packet)
            _close_all(descriptors)

    def receive(self) -> list[Received[M]]:
        """Return what has arrived; `closed` is set when the peer is gone.

        Raises `MessageError` when a packet is not one of ours. Messages that came before it in the same call are lost,
        as a broken peer is not negotiated with.
        """
        received: list[Received[M]] = []
        skipped = 0
        while len(received) + skipped < MAX_MESSAGES_PER_RECEIVE and not self.closed:
            try:
                packet, descriptors, flags = _receive_packet(self._end)
            except BlockingIOError:
                break
            except ConnectionResetError:
                packet, descriptors, flags = b"", [], 0
            self._descriptors += descriptors
            if not packet:
                self.closed = True
                self._drop_parts()
                self._drop_queue()
                break
            try:
                message = self._take(packet, flags)
            except UnknownKind as error:
                self._skip(error.kind)
                skipped += 1
                continue
            except MessageError:
                self._drop_parts()
                for item in received:
                    _close_all(item.descriptors)
                raise
            if message is not None:
                received.append(Received(message, self._descriptors))
                self._descriptors = []
        return received

    def _take(self, packet: bytes, flags: int) -> M | None:
        """Take in one packet; return the message when it is the last one of it."""
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise MessageError("a packet or its descriptors were cut: too many open files, or not our peer")
        head, part = packet[:1], packet[1:]
        self._parts.append(part)
        self._parts_bytes += len(part)
        if self._parts_bytes > MAX_MESSAGE_BYTES or len(self._descriptors) > MAX_MESSAGE_DESCRIPTORS:
            raise MessageError("a message without end")
        if head == _MORE:
            return None
        if head != _LAST:
            raise MessageError(f"not a message: {packet[:40]!r}")
        data = b"".join(self._parts)
        self._parts, self._parts_bytes = [], 0
        return self._decode(data)

    def _skip(self, kind: str) -> None:
        """Pass over a message of another version."""
        _close_all(self._descriptors)
        if kind not in self.unknown and len(self.unknown) < MAX_UNKNOWN_KINDS:
            self.unknown[kind] = 0
            log.warning("the other side of a channel is of another version: ignoring its messages of kind %s", kind)
        if kind in self.unknown:
            self.unknown[kind] += 1

    def close(self) -> None:
        """Close this end and every descriptor that nobody took."""
        self.closed = True
        self._drop_parts()
        self._drop_queue()
        self._end.close()

    def _drop_parts(self) -> None:
        _close_all(self._descriptors)
        self._descriptors, self._parts, self._parts_bytes = [], [], 0

    def _drop_queue(self) -> None:
        for _, descriptors in self._queue:
            _close_all(descriptors)
        self._queue.clear()
        self._queued_bytes = 0


def _receive_packet(end: socket.socket) -> tuple[bytes, list[int], int]:
    """Receive one packet; socket.recv_fds would lose descriptors that arrive with MSG_CTRUNC and set no CLOEXEC."""
    packet, ancillary, flags, _ = end.recvmsg(
        1 + MAX_PACKET_BYTES, socket.CMSG_SPACE(MAX_PACKET_DESCRIPTORS * _INT_BYTES), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % _INT_BYTES])
    return packet, list(descriptors), flags


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        with contextlib.suppress(OSError):
            os.close(fd)
    descriptors.clear()
