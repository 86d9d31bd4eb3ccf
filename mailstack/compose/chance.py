"""Chance: what nobody may guess, and what must not be the same everywhere."""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from mailstack.mail.answers import Exchange

fraction: Final = random.SystemRandom().random
"""Return a number, 0 <= x < 1."""


def key() -> bytes:
    """Make a key that nobody else knows."""
    return secrets.token_bytes(32)


def nonce() -> str:
    """Make printable ASCII without comma, new each time."""
    return secrets.token_urlsafe(18)


def identifier() -> str:
    """Make a name that nothing else has."""
    return secrets.token_hex(8)


def session_names() -> Callable[[], str]:
    """Make names for sessions, different from those of earlier runs: `k3f9a2-17`."""
    run, numbers = secrets.token_hex(3), itertools.count(1)
    return lambda: f"{run}-{next(numbers)}"


def shuffled(exchanges: Sequence[Exchange]) -> Sequence[Exchange]:
    """Return them in another order."""
    return random.SystemRandom().sample(exchanges, len(exchanges))
