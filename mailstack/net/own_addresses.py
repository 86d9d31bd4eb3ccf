"""
Our own addresses: whether a connection to an address and a port would come to ourselves.

A listener at "0.0.0.0" or "[::]" has every address of this machine, and those change while we run. So the kernel is asked each
time: it lets a socket be bound to its own addresses only. Where it lets a socket be bound to any address at all, as on machines
that take over another's (ip_nonlocal_bind), it is asked from which address it would speak to that one: to its main ones it
would speak from themselves.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Final

_NOBODYS: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # kept for examples

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_of_this_machine(address: str) -> bool:
    """Say whether an address belongs to this machine; sends nothing to anybody."""
    ip = _plain(address)
    if ip.is_loopback or ip.is_unspecified:
        return True
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    if _can_bind(family, str(ip)) and not _can_bind(family, _NOBODYS[family]):
        return True
    return _speaks_to_itself(family, str(ip))


class OwnAddresses:
    """
    Those at which we listen.

    Shape:  `listeners` are pairs of an address and a port; port 0, any free one, is nobody's.
    """

    def __init__(
        self, listeners: Sequence[tuple[str, int]], is_of_this_machine: Callable[[str], bool] = is_of_this_machine
    ) -> None:
        self._listeners = [(_plain(host), port) for host, port in listeners if port]
        self._ports = {port for _, port in self._listeners}
        self._is_of_this_machine = is_of_this_machine

    def __call__(self, address: str, port: int) -> bool:
        """Say whether whoever connects there gets us."""
        if port not in self._ports:
            return False
        ip = _plain(address)
        hosts = [host for host, each in self._listeners if each == port]
        if ip in hosts:
            return True
        # A listener of ours takes one family only, so "::" has no IPv4 address.
        everywhere = any(host.is_unspecified and host.version == ip.version for host in hosts)
        return everywhere and self._is_of_this_machine(str(ip))


def _plain(address: str) -> IP:
    """Parse an address; an IPv4 address within an IPv6 one is what counts."""
    ip = ipaddress.ip_address(address)
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip


def _can_bind(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def _speaks_to_itself(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))  # of a datagram socket: nothing is sent
            return bool(probe.getsockname()[0] == address)
    except OSError:
        return False
