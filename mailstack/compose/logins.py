"""Logins: who has an account, and by what a user shows to be one of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from twisted.cred.portal import Portal
from zope.interface import implementer

from mailstack.compose import chance
from mailstack.compose.machine import Machine
from mailstack.credentials import ScramSource
from mailstack.directory.cred import BearerChecker, CertificateChecker, DirectoryChecker, ProofChecker, Realm
from mailstack.directory.directory import Directory
from mailstack.directory.passwords import Argon2Hasher, Verifier
from mailstack.net.introspection import Authority, Introspection
from mailstack.receive.interfaces import ISubmitter
from mailstack.retrieve.interfaces import IMaildrop
from mailstack.settings import OAuth, Settings


@implementer(ISubmitter)
@dataclass(frozen=True)
class Submitter:
    """The avatar of an account that sends mail."""

    account: str


class Logins:
    """
    The portal, which all services have in common.

    Shape:   `open_maildrop` makes the avatar of an account that fetches mail, with what closes it. `tokens` say whose a token
             is, and None takes none; they may be replaced at any time.
    """

    def __init__(
        self, directory: Directory, open_maildrop: Callable[[str], Awaitable[Any]], tokens: Introspection | None
    ) -> None:
        self.tokens = tokens
        self.portal = Portal(
            Realm({ISubmitter: Submitter, IMaildrop: open_maildrop}),
            [
                DirectoryChecker(directory),
                ProofChecker(directory),
                CertificateChecker(directory),
                BearerChecker(directory, self._owner_of),
            ],
        )
        self.scram = ScramSource(directory.scram_keys, chance.nonce)

    async def _owner_of(self, token: bytes) -> str | None:
        """Ask the authorization server of now; a session may have begun when there was another, or none any more."""
        return None if self.tokens is None else await self.tokens.owner(token)


def make_directory(settings: Settings, machine: Machine) -> Directory:
    """Make what knows who exists; it is not read yet."""
    seconds = machine.steady_seconds
    return Directory(
        settings.directory_file,
        machine.disk.run,
        verifier=Verifier(Argon2Hasher(), machine.passwords.run, seconds=seconds, cache_key=chance.key()),
        seconds=seconds,
        subaddress_delimiter=settings.delivery.subaddress_delimiter,
    )


def make_tokens(oauth: OAuth, client_secret: str | None, machine: Machine) -> Introspection | None:
    """Make what asks the authorization server whose a token is, if there is one."""
    if oauth.introspection_url is None or oauth.client_id is None:
        return None
    authority = Authority(
        url=oauth.introspection_url,
        client_id=oauth.client_id,
        client_secret=client_secret or "",
        claim=oauth.account_claim,
        scopes=oauth.scope.split(),
        audience=oauth.audience,
        timeout_seconds=oauth.timeout_seconds,
    )
    return Introspection(machine.reactor, authority, key=chance.key(), now=machine.seconds)
