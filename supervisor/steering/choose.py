"""Chooses the tier of a node, and opens it.

    auto            the best available: A without capabilities, B with them, C where there is an interface to shield
    socket-classic  A        socket  B        xdp  C        xdp-cpumap  D, never chosen by auto

An explicit mode that is not available is an error (`Unavailable`); `auto` takes a lower tier and reports the reason in
`missing`. The tiers are in classic.py and kernel.py.

The caller guarantees that the sockets are bound with SO_REUSEPORT by one uid, each listener's in the order of its slots
(tier A depends on it), and that no other process is the same instance. With *adopt* false everything that an instance
of this name left behind is removed first. With *adopt* true the sockets are those of serving workers, and steering that
cannot be adopted stays attached until the first `accept`.
"""

from __future__ import annotations

import socket
from pathlib import Path

from bpf import BpfError, pins
from supervisor.steering import interfaces as steering_interfaces
from supervisor.steering.base import Network, Steering, Tier
from supervisor.steering.classic import ClassicSteering
from supervisor.steering.interfaces import Interface
from supervisor.steering.kernel import KernelSteering
from velocity_edge.errors import Unavailable
from velocity_edge.wire.cid import CidConfig
from velocity_edge.wire.messages import Listener

MODES = ("auto", "socket-classic", "socket", "xdp", "xdp-cpumap")

__all__ = ["MODES", "Network", "Steering", "Tier", "open_steering"]


def open_steering(
    *,
    mode: str,
    instance: str,
    listeners: list[Listener],
    sockets: list[list[socket.socket]],
    interfaces: list[str],
    cache_dir: Path,
    cid_configs: list[CidConfig],
    adopt: bool,
    bpffs: Path = pins.BPFFS,
) -> Steering:
    """Steer *sockets* (by listener and slot). *interfaces* are those configured for XDP.

    Raises `Unavailable` when an explicit mode is not available.
    """
    if mode not in MODES:
        raise Unavailable(f"cannot steer by {mode!r}: the modes are {', '.join(MODES)}")
    if mode == "socket-classic":
        _forget_pins(instance, bpffs)
        reason = "tier B (socket-ebpf): dispatch.mode is socket-classic"
        return ClassicSteering(sockets, cid_configs, reason, live=adopt)
    try:
        steering = _open_kernel(instance, listeners, sockets, cache_dir, cid_configs, adopt, bpffs)
    except (BpfError, OSError) as error:
        # Tier A behind an old shield would receive no packets. An explicit mode leaves unchanged what serves now.
        if mode == "auto" or not adopt:
            _forget_pins(instance, bpffs)
        reason = sentence(error)
        if mode != "auto":
            raise Unavailable(reason) from None
        return ClassicSteering(sockets, cid_configs, f"tier B (socket-ebpf): {reason}", live=adopt)
    try:
        return _add_shield(steering, mode, listeners, interfaces)
    except BaseException:
        # Adopted steering stays attached.
        if steering.adopted:
            steering.release()
        else:
            steering.detach()
        raise


def _open_kernel(
    instance: str,
    listeners: list[Listener],
    sockets: list[list[socket.socket]],
    cache_dir: Path,
    cid_configs: list[CidConfig],
    adopt: bool,
    bpffs: Path,
) -> KernelSteering:
    pinned, unpinned = pins.Pins(instance, bpffs), ""
    try:
        pins.mount(bpffs)
        if not adopt:
            pinned.remove()
        elif pinned.has_other_schemas():
            pinned.start_anew()
        pinned.create()
    except (BpfError, OSError) as error:
        unpinned = f"; steering does not outlive the supervisor: {sentence(error)}"
    where = None if unpinned else pinned
    try:
        steering = KernelSteering(listeners, sockets, cid_configs, cache_dir, where, live=adopt)
    except pins.MismatchError:
        # The pinned maps do not fit: all of them are replaced, never a part.
        pinned.start_anew()
        steering = KernelSteering(listeners, sockets, cid_configs, cache_dir, where, live=adopt)
    steering.missing = unpinned
    return steering


def _add_shield(steering: KernelSteering, mode: str, listeners: list[Listener], names: list[str]) -> KernelSteering:
    unpinned = steering.missing
    if mode == "socket":
        steering.remove_shield()
        steering.missing = f"tier C (xdp): dispatch.mode is socket{unpinned}"
        return steering
    try:
        interfaces = _interfaces(names, listeners)
        steering.attach_shield(interfaces, move=mode == "xdp-cpumap")
    except (BpfError, OSError, Unavailable) as error:
        reason = sentence(error)
        if mode != "auto":
            raise Unavailable(reason) from None
        steering.remove_shield()
        steering.missing = f"tier C (xdp): {reason}{unpinned}"
        return steering
    steering.missing = unpinned.removeprefix("; ")
    if steering.tier is Tier.C:
        steering.missing = f"tier D (xdp-cpumap): only with dispatch.mode xdp-cpumap{unpinned}"
    return steering


def _interfaces(names: list[str], listeners: list[Listener]) -> list[Interface]:
    found = steering_interfaces.named(names) if names else steering_interfaces.with_addresses_of(listeners)
    if not found:
        raise Unavailable(
            "cannot choose an interface for the shield: name one (`--xdp eth0`, dispatch.interfaces), "
            "or listen on an address of it instead of a wildcard"
        )
    return found


def sentence(error: Exception) -> str:
    """Return the reason, also of an unexpected OSError: containers restrict system calls in many ways."""
    if not isinstance(error, OSError):
        return str(error)
    where = f" {error.filename}" if error.filename else " the packet programs"
    return f"cannot use{where}: {error.strerror or error}"


def _forget_pins(instance: str, bpffs: Path) -> None:
    """Remove the pins of an earlier run in a higher tier, such as its shield."""
    try:
        pins.Pins(instance, bpffs).remove()
    except OSError:
        pass  # without the right to remove pins this node did not make them either
