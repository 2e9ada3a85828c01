"""Trains of datagrams in and out of sockets: recvmsg with UDP_GRO, sendmsg with UDP_SEGMENT.

The answer to a datagram leaves from the address it came to (IP_PKTINFO), also on a wildcard socket: anycast and
multi-homed clients depend on it. IPv4 on a dual-stack socket is IPv4 to the engine (4 bytes, never mapped).

Socket options are udp.py's. What a socket cannot send is dropped and counted, QUIC retransmits it; a socket that would
block keeps it.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from velocity_edge.http.requests import Address
from velocity_edge.quic import udp
from velocity_edge.quic.datagrams import Train

log = logging.getLogger(__name__)

#: A batch is what one turn receives or sends: large enough to amortize a turn, small enough to stay fair.
MAX_TRAINS: Final = 64
#: The kernel's UDP_MAX_SEGMENTS was 64 until 6.9; a train must also fit one UDP length.
_MAX_SEGMENTS: Final = 64
_MAX_TRAIN_BYTES: Final = 65_000
_RECEIVE_BYTES: Final = 65_535
_CONTROL_BYTES: Final = 256
#: Destinations that take no UDP_SEGMENT (a path without checksum offload): the newest ones are remembered.
_MAX_WITHOUT_GSO: Final = 1024
_WOULD_BLOCK: Final = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS))


def gather(datagrams: Iterable[tuple[bytes, Any]]) -> Iterator[Train]:
    """Yield trains of (datagram, path): same path, equal lengths, the last one may be shorter."""
    train: list[bytes] = []
    train_path: Any = None
    size = total = 0
    for datagram, path in datagrams:
        length = len(datagram)
        full = len(train) == _MAX_SEGMENTS or total + length > _MAX_TRAIN_BYTES
        if train and (path != train_path or length > size or full):
            yield _train(train, size, train_path)
            train = []
        if not train:
            train_path, size, total = path, length, 0
        train.append(datagram)
        total += length
        if length < size:
            yield _train(train, size, train_path)
            train = []
    if train:
        yield _train(train, size, train_path)


def _train(datagrams: list[bytes], size: int, path: Any) -> Train:
    peer, local, listener = path
    return Train(b"".join(datagrams), size, peer, local, listener)


class PortableBatch:
    """Implements `datagrams.Batch`."""

    def __init__(self, count: dict[str, int]) -> None:
        self._count = count
        self._trains: list[Train] = []
        self._without_gso: OrderedDict[Address, None] = OrderedDict()
        #: Descriptor -> what its socket had dropped at the last read; the first is the base: sockets outlive workers.
        self._overflows: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._trains)

    def __iter__(self) -> Iterator[Train]:
        return iter(self._trains)

    def append(self, train: Train) -> bool:
        """Add one train. False when the batch is full."""
        if len(self._trains) >= MAX_TRAINS:
            return False
        self._trains.append(train)
        return True

    def clear(self) -> None:
        """Forget the trains."""
        self._trains = []

    # --- in -----------------------------------------------------------------------------------------------------------

    def receive(self, fd: int, listener: int) -> int:
        """Take trains from a UDP socket until it would block or the batch is full."""
        sock = socket.socket(fileno=fd)
        try:
            port = sock.getsockname()[1]
            if fd not in self._overflows:
                self._overflows[fd] = udp.dropped_datagrams(sock)
            while len(self._trains) < MAX_TRAINS:
                try:
                    data, control, _, name = sock.recvmsg(_RECEIVE_BYTES, _CONTROL_BYTES)
                except (BlockingIOError, InterruptedError):
                    break
                except OSError:
                    # An ICMP error of an earlier answer, queued on the socket. It is consumed now; a datagram follows.
                    self._count["send_errors"] += 1
                    continue
                self._count["receive_calls"] += 1
                self._count["receive_bytes"] += len(data)
                self._trains.append(self._read(fd, data, control, name, port, listener))
        finally:
            sock.detach()
        return len(self._trains)

    def _read(
        self, fd: int, data: bytes, control: list[tuple[int, int, bytes]], name: Any, port: int, listener: int
    ) -> Train:
        segment_size, local, tos = len(data), b"", 0
        for level, kind, value in control:
            match level, kind:
                case (udp.SOL_UDP, udp.UDP_GRO):
                    segment_size = int.from_bytes(value[:4], "little")
                case (socket.IPPROTO_IP, udp.IP_PKTINFO):
                    local = value[8:12]
                case (socket.IPPROTO_IPV6, udp.IPV6_PKTINFO):
                    local = local or udp.scoped(_unmapped(value[:16]), int.from_bytes(value[16:20], "little"))
                case (socket.IPPROTO_IP, socket.IP_TOS):
                    tos = value[0]
                case (socket.IPPROTO_IPV6, udp.IPV6_TCLASS):
                    tos = tos or int.from_bytes(value[:4], "little") & 0xFF
                case (socket.SOL_SOCKET, udp.SO_RXQ_OVFL):
                    self._note_overflow(fd, int.from_bytes(value[:4], "little"))
        return Train(data, segment_size, (_packed(name), name[1]), (local, port), listener, tos)

    def _note_overflow(self, fd: int, dropped: int) -> None:
        # 32 bits that wrap. A datagram that was queued before a drop may be read after one that reports the drop.
        new = (dropped - self._overflows[fd]) & 0xFFFFFFFF
        if new < 1 << 31:
            self._count["socket_overflows"] += new
            self._overflows[fd] = dropped

    # --- out ----------------------------------------------------------------------------------------------------------

    def transmit(self, fds: Sequence[int]) -> bool:
        """Send the trains, each on the socket of its listener. False: a socket would block, the rest is kept."""
        sockets: dict[int, socket.socket] = {}
        sent = 0
        try:
            for train in self._trains:
                sock = sockets.get(train.listener)
                if sock is None:
                    sock = sockets[train.listener] = socket.socket(fileno=fds[train.listener])
                kept = self._send(sock, train)
                if kept is not None:
                    self._trains = [kept, *self._trains[sent + 1 :]]
                    return False
                sent += 1
        finally:
            for sock in sockets.values():
                sock.detach()
        self._trains = []
        return True

    def _send(self, sock: socket.socket, train: Train) -> Train | None:
        """Send one train; return what of it must wait."""
        v6 = sock.family == socket.AF_INET6
        name = _name(train.peer, v6)
        control = _source(train.local[0], v6)
        data, size = train.data, train.segment_size
        several = len(data) > size
        if several and train.peer not in self._without_gso:
            segment = (udp.SOL_UDP, udp.UDP_SEGMENT, struct.pack("=H", size))
            error = self._sendmsg(sock, data, [*control, segment], name, -(-len(data) // size))
            if error == 0:
                return None
            if error in _WOULD_BLOCK:
                return train
            if error not in (errno.EIO, errno.EINVAL):
                self._lost(train, error)
                return None
            self._count["gso_fallbacks"] += 1
            self._without_gso[train.peer] = None
            if len(self._without_gso) > _MAX_WITHOUT_GSO:
                self._without_gso.popitem(last=False)
        for start in range(0, len(data), size):
            error = self._sendmsg(sock, data[start : start + size], control, name, 1)
            if error in _WOULD_BLOCK:
                return Train(data[start:], size, train.peer, train.local, train.listener)
            if error:
                self._lost(train, error)
                return None
        return None

    def _sendmsg(self, sock: socket.socket, data: bytes, control: list[Any], name: Any, datagrams: int) -> int:
        """Return 0 or the error number."""
        try:
            sock.sendmsg([data], control, 0, name)
        except OSError as error:
            return error.errno or errno.EIO
        self._count["send_calls"] += 1
        self._count["send_bytes"] += len(data)
        self._count["datagrams_sent"] += datagrams
        return 0

    def _lost(self, train: Train, error: int) -> None:
        self._count["send_errors"] += 1
        log.debug("cannot send to %s: %s", train.peer, errno.errorcode.get(error, error))


def _packed(name: Any) -> bytes:
    """Return the packed address of a socket's (host, port) or (host, port, flow, interface)."""
    host = name[0]
    if ":" not in host:
        return socket.inet_aton(host)
    # Python writes the interface behind a link-local host, too: "fe80::1%eth0".
    return udp.scoped(_unmapped(socket.inet_pton(socket.AF_INET6, host.partition("%")[0])), name[3])


def _unmapped(address: bytes) -> bytes:
    return address[12:] if address.startswith(udp.V4_MAPPED) else address


def _name(peer: Address, v6: bool) -> Any:
    ip, port = peer
    if not v6:
        return socket.inet_ntoa(ip), port
    address, interface = udp.unscoped(ip if len(ip) == 16 else udp.V4_MAPPED + ip)
    return socket.inet_ntop(socket.AF_INET6, address), port, 0, interface


def _source(local: bytes, v6: bool) -> list[Any]:
    """Return the control message that names the source address of an answer."""
    if not local:
        return []
    if v6:
        address, interface = udp.unscoped(local if len(local) == 16 else udp.V4_MAPPED + local)
        return [(socket.IPPROTO_IPV6, udp.IPV6_PKTINFO, address + interface.to_bytes(4, "little"))]
    return [(socket.IPPROTO_IP, udp.IP_PKTINFO, bytes(4) + local + bytes(4))]
