"""
Our own addresses: whether a connection to somewhere would come back to us.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from contextlib import closing


def is_of_this_machine(address: str) -> bool:
    """Say whether an interface of this machine has the IP address: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


class OwnListeners:
    """
    Says of an address and a port whether we are who listens there.

    Shape:  `listeners` are (IP address, port); the unspecified address stands for all of its family that the machine has.
    """

    def __init__(self, listeners: Iterable[tuple[str, int]]) -> None:
        self._listeners = [(ipaddress.ip_address(host), port) for host, port in listeners]

    def __call__(self, address: str, port: int) -> bool:
        """Say whether a connection to there would be one to ourselves."""
        ip = ipaddress.ip_address(address)
        same_port = [host for host, number in self._listeners if number == port and host.version == ip.version]
        return ip in same_port or (any(host.is_unspecified for host in same_port) and is_of_this_machine(address))
