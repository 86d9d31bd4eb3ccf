"""
The border to twisted.cred: checkers that ask the directory, and a realm that makes avatars of whatever it was given.

Only a wrong name or password becomes UnauthorizedLogin. Everything else passes through as it is, and the protocols answer
"temporary": a directory that cannot be read must not look like a wrong password.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from twisted.cred.checkers import ANONYMOUS, ICredentialsChecker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from mailstack.credentials import IBearer, ICertified, IScramProof
from mailstack.mail.scram import ScramProof

Avatars = Mapping[Any, Callable[[str], Any]]
"""
For each interface, what makes its avatar from the name of an account: it returns the avatar, or an awaitable of (avatar,
logout).
"""


class Verifies(Protocol):
    """What the checker asks: a `directory.Directory`."""

    async def verify(self, username: bytes | str, password: bytes | str) -> str | None:
        """Return the account's name, or None."""


@implementer(ICredentialsChecker)
class DirectoryChecker:
    """Checks user name and password; the avatar's id is the account's name as UTF-8 octets."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, directory: Verifies) -> None:
        self._directory = directory

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """
        Return the account's name.

        Raises:  UnauthorizedLogin: no such account, or disabled, or the wrong password; which of them it is, is not said.
        """
        return Deferred.fromCoroutine(self._check(credentials.username, credentials.password))

    async def _check(self, username: bytes | str, password: bytes | str) -> bytes | tuple[()]:
        account = await self._directory.verify(username, password)
        if account is None:
            raise UnauthorizedLogin
        return account.encode()


class VerifiesProof(Protocol):
    """What the checker of proofs asks: a `directory.Directory`."""

    async def verify_proof(self, proof: ScramProof) -> str | None:
        """Return the account's name, or None."""


@implementer(ICredentialsChecker)
class ProofChecker:
    """Checks the proofs of SCRAM; the avatar's id as `DirectoryChecker` has it."""

    credentialInterfaces = (IScramProof,)

    def __init__(self, directory: VerifiesProof) -> None:
        self._directory = directory

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """
        Return the account's name.

        Raises:  UnauthorizedLogin: as `DirectoryChecker`.
        """
        return Deferred.fromCoroutine(self._check(credentials.proof))

    async def _check(self, proof: ScramProof) -> bytes | tuple[()]:
        account = await self._directory.verify_proof(proof)
        if account is None:
            raise UnauthorizedLogin
        return account.encode()


class FindsCertified(Protocol):
    """What the checkers of certificates and tokens ask: a `directory.Directory`."""

    async def find_certified(self, names: Sequence[str], authorization_id: bytes) -> str | None:
        """Return the account's name, or None."""


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Checks whom a certificate names; the avatar's id as `DirectoryChecker` has it."""

    credentialInterfaces = (ICertified,)

    def __init__(self, directory: FindsCertified) -> None:
        self._directory = directory

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """
        Return the account's name.

        Raises:  UnauthorizedLogin: it names no account, or several and the client does not say which, or a disabled one.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        account = await self._directory.find_certified(credentials.names, credentials.authorization_id)
        if account is None:
            raise UnauthorizedLogin
        return account.encode()


@implementer(ICredentialsChecker)
class BearerChecker:
    """
    Checks whose a token is; the avatar's id as `DirectoryChecker` has it.

    Shape:  `owner(token)` returns the name that the token stands for, or None; what it raises passes through.
    """

    credentialInterfaces = (IBearer,)

    def __init__(self, directory: FindsCertified, owner: Callable[[bytes], Awaitable[str | None]]) -> None:
        self._directory = directory
        self._owner = owner

    def requestAvatarId(self, credentials: Any) -> Deferred[bytes | tuple[()]]:
        """
        Return the account's name.

        Raises:  UnauthorizedLogin: the token is not good, or is of nobody who has an account here, or of a disabled one, or of
                 another than the client wants to act for.
        """
        return Deferred.fromCoroutine(self._check(credentials))

    async def _check(self, credentials: Any) -> bytes | tuple[()]:
        owner = await self._owner(credentials.token)
        if owner is None:
            raise UnauthorizedLogin
        account = await self._directory.find_certified([owner], credentials.authorization_id)
        if account is None:
            raise UnauthorizedLogin
        return account.encode()


@implementer(IRealm)
class Realm:
    """Gives an account the avatar of the first requested interface for which there is one."""

    def __init__(self, avatars: Avatars) -> None:
        self._avatars = dict(avatars)

    def requestAvatar(
        self, avatarId: bytes | tuple[()], mind: object, *interfaces: type[Interface]
    ) -> Deferred[tuple[type[Interface], object, Callable[[], None]]]:
        """
        Make the avatar.

        Raises:  UnauthorizedLogin: an anonymous login. NotImplementedError: there is none for any of these interfaces.
        """
        return Deferred.fromCoroutine(self._make(avatarId, interfaces))

    async def _make(
        self, avatar_id: bytes | str | tuple[()], interfaces: tuple[type[Interface], ...]
    ) -> tuple[type[Interface], object, Callable[[], None]]:
        if avatar_id == ANONYMOUS or isinstance(avatar_id, tuple):
            raise UnauthorizedLogin
        account = avatar_id.decode() if isinstance(avatar_id, bytes) else avatar_id
        for interface in interfaces:
            if interface in self._avatars:
                made = self._avatars[interface](account)
                avatar, logout = await made if isinstance(made, Awaitable) else (made, _nothing)
                return interface, avatar, logout
        raise NotImplementedError(f"no avatar for {', '.join(each.__name__ for each in interfaces)}")


def _nothing() -> None:
    """Log out where there is nothing to end."""
