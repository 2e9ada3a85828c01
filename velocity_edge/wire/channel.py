"""Transport of messages between the supervisor and a worker: packets on a SOCK_SEQPACKET pair, with descriptors.

The first byte of a packet tells whether the message ends with it (`.`) or continues (`+`): a configuration with many
certificates is longer than one packet, and the kernel takes at most 253 descriptors per packet (SCM_MAX_FD). Everything
is bounded and nothing blocks: packets that the peer does not take at once are queued, and a peer that lets more than
`MAX_QUEUED_BYTES` wait is broken (`ChannelFull`). The first byte also distinguishes an empty packet from an end of
file, which look the same on SEQPACKET.

This file decides how bytes travel, not their meaning (messages.py), nor how a broken peer is handled (the supervisor
kills the worker; a worker goes on serving and looks for another supervisor). A message of an unknown kind is skipped,
counted, and logged once per kind.
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
#: One message, enough for the certificates and keys of some hundred sites. A peer that sends more is broken.
MAX_MESSAGE_BYTES: Final = 16 * 1024 * 1024
#: Listeners and hand-over links of a node with 512 slots.
MAX_MESSAGE_DESCRIPTORS: Final = 1024
#: The most that is queued for a peer that does not read.
MAX_QUEUED_BYTES: Final = 2 * MAX_MESSAGE_BYTES
#: Different unknown kinds that are counted by name.
MAX_UNKNOWN_KINDS: Final = 32
#: Messages per `receive`, so that one peer cannot keep the loop busy.
MAX_MESSAGES_PER_RECEIVE: Final = 64

_MORE: Final = b"+"
_LAST: Final = b"."
_INT_BYTES: Final = array.array("i").itemsize

M = TypeVar("M", bound=Message)


class ChannelFull(Exception):
    """More than `MAX_QUEUED_BYTES` wait for a peer that does not read."""


@dataclass(frozen=True, slots=True)
class Received(Generic[M]):
    """A message and its descriptors, which the receiver must close."""

    message: M
    descriptors: list[int]


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel, both non-blocking and close-on-exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


class Channel(Generic[M]):
    """One end of a channel. `decode`: `messages.decode_report` for a supervisor, `decode_order` for a worker."""

    def __init__(self, end: socket.socket, decode: Callable[[bytes], M]) -> None:
        end.setblocking(False)
        self._end = end
        self._decode = decode
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._queued_bytes = 0
        self._parts: list[bytes] = []
        self._parts_bytes = 0
        self._descriptors: list[int] = []
        #: The peer has closed its end: nothing more will be received, and what is sent is dropped.
        self.closed = False
        #: Unknown kind -> messages of it that were skipped.
        self.unknown: dict[str, int] = {}

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._end.fileno()

    @property
    def pending(self) -> bool:
        """Whether packets are queued: call `flush` when the channel is writable."""
        return bool(self._queue)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send *message*, with copies of *descriptors*; what does not fit now is queued for `flush`.

        Raises `ChannelFull`. A closed peer is not an error here: the reader sees its end of file.
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
            # Descriptors and bytes are split independently; a packet may have only one of the two.
            part = packets[index] if index < len(packets) else b""
            bundle = bundles[index] if index < len(bundles) else ()
            self._queue.append((head + part, [os.dup(fd) for fd in bundle]))
            self._queued_bytes += 1 + len(part)
        self.flush()

    def flush(self) -> None:
        """Send what the kernel accepts now."""
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
        """Return the messages that have arrived; `closed` is set when the peer has closed its end.

        Raises `MessageError` for an invalid packet. The peer is broken: messages before it in the same call are lost.
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
        """Add one packet; return the message when this packet completes it."""
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise MessageError("a packet or its descriptors were truncated: too many open files, or an invalid peer")
        head, part = packet[:1], packet[1:]
        self._parts.append(part)
        self._parts_bytes += len(part)
        if self._parts_bytes > MAX_MESSAGE_BYTES or len(self._descriptors) > MAX_MESSAGE_DESCRIPTORS:
            raise MessageError("a message that is too long")
        if head == _MORE:
            return None
        if head != _LAST:
            raise MessageError(f"not a message: {packet[:40]!r}")
        data = b"".join(self._parts)
        self._parts, self._parts_bytes = [], 0
        return self._decode(data)

    def _skip(self, kind: str) -> None:
        """Skip a message of another version."""
        _close_all(self._descriptors)
        if kind not in self.unknown and len(self.unknown) < MAX_UNKNOWN_KINDS:
            self.unknown[kind] = 0
            log.warning("the peer of a channel is of another version: ignoring its messages of kind %s", kind)
        if kind in self.unknown:
            self.unknown[kind] += 1

    def close(self) -> None:
        """Close this end and every descriptor that was not delivered."""
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
    """Receive one packet. socket.recv_fds would leak descriptors that arrive with MSG_CTRUNC and not set CLOEXEC."""
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
