"""Peers: which of those that connect may do what others may not, by where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from mailstack.settings import Network, Unix


def is_among(peer: str, networks: Sequence[Network]) -> bool:
    """Say whether a peer is in one of the networks; "", a UNIX socket, is in none."""
    if not networks or not peer:
        return False
    address = ip_address(peer)
    return any(address in each for each in networks)


def may_speak_for_others(peer: str, speakers: Sequence[Network | Unix]) -> bool:
    """Say whether a peer is believed who its client is: one of the networks, or of UNIX sockets ("") where these are named."""
    return is_among(peer, [each for each in speakers if not isinstance(each, str)]) if peer else "unix" in speakers


def may_use_lmtp(peer: str, networks: Sequence[Network]) -> bool:
    """Say whether a peer may use LMTP: one of this machine, of whom UNIX sockets know no address, or of the networks."""
    return not peer or ip_address(peer).is_loopback or is_among(peer, networks)
