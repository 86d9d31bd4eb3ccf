"""
File descriptors: as many as we may have.

The soft limit that a process is usually born with, 1024, is less than the connections that the listeners accept. Without
a descriptor neither a folder nor a database can be opened, so strangers who hold connections could stop the mail of all.
"""

from __future__ import annotations

import resource
from typing import Final, Protocol

WANTED: Final = 65_536


class Limits(Protocol):
    """What is asked of the module `resource`."""

    RLIMIT_NOFILE: int

    def getrlimit(self, which: int, /) -> tuple[int, int]:
        """Return the soft and the hard limit."""

    def setrlimit(self, which: int, limits: tuple[int, int], /) -> None:
        """Set both."""


def raise_descriptor_limit(limits: Limits = resource) -> None:
    """Raise the soft limit to what we want or the hard limit allows; never lower it."""
    soft, hard = limits.getrlimit(limits.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limits.setrlimit(limits.RLIMIT_NOFILE, (wanted, hard))
