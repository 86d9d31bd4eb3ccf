"""Routing: for whom the mail to an address is meant, and from whom it goes on."""

from __future__ import annotations

from collections.abc import Callable

from mailstack import events
from mailstack.directory.directory import Directory
from mailstack.mail.address import Address, parse_address
from mailstack.mail.srs import SenderRewriting
from mailstack.route.expand import Expander
from mailstack.route.returns import ReturnPaths
from mailstack.route.transport import TransportMap
from mailstack.settings import Settings, Srs


class Routing:
    """
    The ways through the house.

    Shape:   `expander` knows who is ours, `returns` also the addresses under which we forward. `seconds` since 1970, UTC.
    """

    def __init__(
        self, settings: Settings, directory: Directory, rewriting: SenderRewriting | None, *, seconds: Callable[[], float]
    ) -> None:
        self._directory = directory
        self.expander = Expander(
            directory,
            delimiter=settings.delivery.subaddress_delimiter,
            postmaster=postmaster_of(settings),
            transports=settings.transports,
        )
        self.returns = ReturnPaths(self.expander, directory, rewriting=rewriting, seconds=seconds, too_long=events.sender_kept)

    def change(self, transports: TransportMap, rewriting: SenderRewriting | None) -> None:
        """Go by these from now on."""
        self.expander.transports = transports
        self.returns.rewriting = rewriting


def postmaster_of(settings: Settings) -> Address | None:
    """Return the account of the postmaster, if there is one."""
    return parse_address(settings.postmaster) if settings.postmaster else None


def make_rewriting(srs: Srs, secrets: tuple[str, ...]) -> SenderRewriting | None:
    """Make what rewrites reverse-paths, if that is wanted."""
    return None if srs.domain is None else SenderRewriting(srs.domain, tuple(each.encode() for each in secrets))
