"""Doctor's findings about sockets and network cards: GRO and GSO, buffers, native XDP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from velocity_edge.machine.findings import Finding, Level

#: linux/udp.h
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
#: The buffer size of a slot's socket. A full GRO train is 64 KiB, and the kernel accounts twice that for it.
WANTED_BUFFER_BYTES: Final = 4 * 2**20
#: linux/netdev.h: the driver runs XDP programs itself; it can redirect to other CPUs.
_XDP_BASIC: Final = 1
_XDP_REDIRECT: Final = 2


def network() -> Iterator[Finding]:
    """Examine sockets and interfaces."""
    yield _offload()
    yield from _buffers()
    yield from _interfaces()


def _offload() -> Finding:
    missing = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for name, option, value in (("UDP_GRO", _UDP_GRO, 1), ("UDP_SEGMENT", _UDP_SEGMENT, 1200)):
            try:
                udp.setsockopt(socket.IPPROTO_UDP, option, value)
            except OSError as error:
                missing.append(f"{name} ({error.strerror})")
    if missing:
        return Finding(
            "GRO, GSO",
            Level.LACKING,
            f"not available: {', '.join(missing)}: one system call per datagram instead of one per 40",
        )
    return Finding("GRO, GSO", Level.FINE, "many datagrams per system call, both ways")


def _buffers() -> Iterator[Finding]:
    for option, force, name in (
        (socket.SO_RCVBUF, getattr(socket, "SO_RCVBUFFORCE", 33), "rmem"),
        (socket.SO_SNDBUF, getattr(socket, "SO_SNDBUFFORCE", 32), "wmem"),
    ):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            try:
                udp.setsockopt(socket.SOL_SOCKET, force, WANTED_BUFFER_BYTES)
                how = "above net.core limits, with CAP_NET_ADMIN"
            except OSError:
                udp.setsockopt(socket.SOL_SOCKET, option, WANTED_BUFFER_BYTES)
                how = f"within net.core.{name}_max"
            # The kernel doubles the requested size for its own use, and reports the double.
            got = udp.getsockopt(socket.SOL_SOCKET, option) // 2
        text = f"wanted {WANTED_BUFFER_BYTES // 1024} KiB, got {got // 1024} KiB"
        if got >= WANTED_BUFFER_BYTES:
            yield Finding(f"{name} buffer", Level.FINE, f"{text}, {how}")
        else:
            remedy = f"sysctl -w net.core.{name}_max={WANTED_BUFFER_BYTES}"
            yield Finding(f"{name} buffer", Level.LACKING, f"{text}: more packets of bursts are dropped", remedy)


def _interfaces() -> Iterator[Finding]:
    try:
        features = _xdp_features()
    except Exception as error:
        # pyroute2 raises many kinds of exceptions, and kernels before 6.3 do not have this family.
        yield Finding("XDP", Level.NOTE, f"the kernel does not report which drivers support XDP ({error})")
        features = {}
    for index, name in socket.if_nameindex():
        if name == "lo":
            continue
        driver = Path(f"/sys/class/net/{name}/device/driver")
        card = f" ({driver.resolve().name})" if driver.exists() else ""
        bits = features.get(index)
        if bits is None:
            mode = "XDP mode unknown"
        elif bits & _XDP_BASIC:
            mode = "native XDP" + (" with redirect" if bits & _XDP_REDIRECT else "")
        else:
            mode = "generic XDP only: it works, with less gain"
        yield Finding(f"interface {name}", Level.NOTE, mode + card)


def _xdp_features() -> dict[int, int]:
    """Return interface index -> XDP feature bits, from the kernel's netdev family."""
    from pyroute2.netlink import NLM_F_DUMP, NLM_F_REQUEST, genlmsg
    from pyroute2.netlink.generic import GenericNetlinkSocket

    class Device(genlmsg):  # type: ignore[misc]
        prefix = "NETDEV_A_DEV_"
        nla_map = (
            ("NETDEV_A_DEV_UNSPEC", "none"),
            ("NETDEV_A_DEV_IFINDEX", "uint32"),
            ("NETDEV_A_DEV_PAD", "none"),
            ("NETDEV_A_DEV_XDP_FEATURES", "uint64"),
        )

    netlink: Any = GenericNetlinkSocket()
    try:
        netlink.bind("netdev", Device)
        question = Device()
        question["cmd"], question["version"] = 1, 1  # NETDEV_CMD_DEV_GET
        answers = netlink.nlm_request(question, msg_type=netlink.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP)
        return {a.get_attr("NETDEV_A_DEV_IFINDEX"): a.get_attr("NETDEV_A_DEV_XDP_FEATURES") or 0 for a in answers}
    finally:
        netlink.close()
