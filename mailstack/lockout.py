"""
The lockout: who has failed to log in too often is not asked for a password again for a while.

Used by the sessions of `receive` and `retrieve`, which share one: a guess by SMTP counts for POP3. Failures count for a *pair*,
the network from which they come (IPv4 /24, IPv6 /64) with the account, and for the network with whatever account:

    failures of the pair, as many as allowed    that network is locked out of that account
    failures of the network, many more          that network is locked out of every account but those that it is known to have

Nothing is counted for an account alone: a stranger could lock its owner out. A pair that logged in within GOOD_SECONDS is
known, and what others in its network did is not held against it. The same wrong password again is no further guess, and
attempts while locked out do not count: so a telephone that has the old password does not keep everybody at home out.

Who shows a token guesses no password, and cannot guess tokens either; what a wrong one costs is a question to a server that is
not ours, which `net.introspection` asks about the same one only now and then. So tokens have pairs of their own (`by_token`),
with the account that the client says it is for: old tokens lock out nobody who has the password, nor the other way round. For
the network they count as all else does.

The tallies know names only by hashes with a key of this run. So who is locked out cannot be listed, and an account cannot be
let in from wherever it is locked out; but from a place that is named, as the log does, it can.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from mailstack.mail.address import AddressError, parse_address
from mailstack.sessions import peer_key, peer_network

GOOD_SECONDS: Final = 2_592_000  # 30 days


class Tally(Protocol):
    """Counts what happens within a while, by name."""

    def add(self, name: str, window_seconds: int) -> int:
        """Count one more, and return how many there are now."""
        ...

    def count(self, name: str, window_seconds: int) -> int:
        """Return how many there are."""
        ...

    def forget(self, name: str) -> None:
        """Count none any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LockoutLimits:
    """How many failures are allowed within `window_seconds`."""

    failures: int = 10
    failures_per_network: int = 50
    window_seconds: int = 900


class Lockout:
    """
    Knows who is locked out.

    Shape:   `failed` counts what failed, `good` what succeeded; both may be those of several processes. `limits` may be
             replaced at any time. A peer is an IP address, or "" for a UNIX socket, which is never locked out.
    """

    def __init__(self, failed: Tally, good: Tally, limits: LockoutLimits | None = None) -> None:
        self._failed = failed
        self._good = good
        self.limits = limits or LockoutLimits()

    def is_locked(self, peer: str, username: str) -> bool:
        """Say whether the peer must not try the account now."""
        if not peer:
            return False
        limits, network = self.limits, login_network(peer)
        pair = _pair(network, username)
        if self._failed.count(pair, limits.window_seconds) >= limits.failures:
            return True
        if self._failed.count(network, limits.window_seconds) < limits.failures_per_network:
            return False
        return not self._good.count(pair, GOOD_SECONDS)

    def has_failed(self, peer: str, username: str, password: bytes | None = None) -> None:
        """Take note of a wrong name or password; None: of which password it was, nobody knows."""
        if not peer:
            return
        network, window_seconds = login_network(peer), self.limits.window_seconds
        pair = _pair(network, username)
        # Nothing of it is kept but what the tally keeps of any name: a short hash, with a key that was made at the start.
        if password is not None and self._failed.add(f"{pair}\0{password.hex()}", window_seconds) > 1:
            return
        self._failed.add(pair, window_seconds)
        self._failed.add(network, window_seconds)

    def lift(self, peer: str, username: str | None = None) -> bool:
        """
        Let the network of a peer try again, and try the account, if one is named; say whether it was locked out.

        Shape:   without an account the failures of single accounts stay. What was counted is forgotten, a good login is not.
        """
        if not peer:
            return False
        network = login_network(peer)
        was_locked = self._failed.count(network, self.limits.window_seconds) >= self.limits.failures_per_network
        if username is not None:
            was_locked = self.is_locked(peer, username)
            self._failed.forget(_pair(network, username))
        self._failed.forget(network)
        return was_locked

    def has_succeeded(self, peer: str, username: str) -> None:
        """Take note of a login."""
        if peer:
            self._good.add(_pair(login_network(peer), username), GOOD_SECONDS)


def by_token(username: str) -> str:
    """Return the name by which the logins to an account with tokens count; "" when the client does not say to which."""
    return f"\x01{_in_one_form(username)}"  # no user name has a control character


def login_network(peer: str) -> str:
    """Return the network whose failures count together."""
    return peer_key(peer) if ":" in peer else peer_network(peer) or peer


def _pair(network: str, username: str) -> str:
    return f"{network} {_in_one_form(username)}"


def _in_one_form(username: str) -> str:
    # In one form, whatever quotes, capitals and final dots a guesser varies; two names that become one are counted as one.
    with suppress(AddressError):
        username = str(parse_address(username))
    return username.casefold()
