"""The network interfaces that the shield is attached to (pyroute2, in this network namespace).

They are the configured interfaces, or else those with an address that a listener names explicitly: a node that is only
tried out must not touch a network card. A wildcard and the loopback address name no interface.

pyroute2 has an event loop of its own and refuses to work while another one runs, as in the supervisor. So it runs in a
thread for a few milliseconds at the start; a thread has the network namespace of the thread that started it.
"""

from __future__ import annotations

import ipaddress
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute

from velocity_edge.errors import Unavailable
from velocity_edge.wire.messages import Listener

_XDP_MODES = {1: "native", 2: "generic", 3: "offloaded", 4: "several"}


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface: `kind` is "veth", "vlan", ... or "" for hardware; `xdp` is how a program is attached."""

    name: str
    index: int
    kind: str
    xdp: str


def named(names: list[str]) -> list[Interface]:
    """Return the interfaces with these names, or raise `Unavailable`."""
    found = {interface.name: interface for interface in map(_interface, _ask("get_links"))}
    missing = [name for name in names if name not in found]
    if missing:
        raise Unavailable(
            f"cannot attach to {', '.join(missing)}: no such network interface; there are {', '.join(sorted(found))}"
        )
    return [found[name] for name in dict.fromkeys(names)]


def with_addresses_of(listeners: list[Listener]) -> list[Interface]:
    """Return the interfaces that carry an address of a listener."""
    wanted = {ipaddress.ip_address(listener.host.partition("%")[0]) for listener in listeners}
    wanted = {address for address in wanted if not address.is_unspecified and not address.is_loopback}
    indices = {
        message["index"]
        for message in _ask("get_addr")
        if ipaddress.ip_address(message.get_attr("IFA_ADDRESS")) in wanted
    }
    return [link for link in map(_interface, _ask("get_links")) if link.index in indices]


def _ask(question: str) -> list[Any]:
    """Return the result of this method of IPRoute."""

    def answer() -> list[Any]:
        with IPRoute() as route:
            return list(getattr(route, question)())

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(answer).result()


def _interface(message: Any) -> Interface:
    link_info = message.get_attr("IFLA_LINKINFO")
    xdp = message.get_attr("IFLA_XDP")
    attached = xdp.get_attr("IFLA_XDP_ATTACHED") if xdp is not None else 0
    return Interface(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        kind=(link_info.get_attr("IFLA_INFO_KIND") or "") if link_info is not None else "",
        xdp=_XDP_MODES.get(attached or 0, ""),
    )
