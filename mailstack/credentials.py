"""
What twisted.cred is shown of somebody who has proved to know a password without telling it, or has shown a certificate or a
token.

A realm's checkers for user names and passwords know nothing of these. Where proofs are to be taken, there is a ScramSource,
which says what the exchange needs in its midst, and a checker for IScramProof, which says in the end whose the proof is. Where
certificates are to be taken, there is a checker for ICertified; where tokens are, one for IBearer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from twisted.cred.credentials import ICredentials
from zope.interface import Attribute, implementer

from mailstack.mail.scram import ScramKeys, ScramProof


class IScramProof(ICredentials):
    """What a client has shown in an exchange of SCRAM-SHA-256."""

    proof: ScramProof = Attribute("The proof, with the name of the user whose it claims to be.")


@implementer(IScramProof)
@dataclass(frozen=True, slots=True)
class ScramCredentials:
    """A proof as credentials."""

    proof: ScramProof


class ICertified(ICredentials):
    """What a client has shown in its TLS session: a certificate of an authority that we trust."""

    names: tuple[str, ...] = Attribute("The mail addresses in it.")
    authorization_id: bytes = Attribute("Which of them the client wants to be, or b'' when it does not say.")


@implementer(ICertified)
@dataclass(frozen=True, slots=True)
class CertificateCredentials:
    """A certificate as credentials."""

    names: tuple[str, ...]
    authorization_id: bytes = b""


class IBearer(ICredentials):
    """A token that somebody has who may act for its owner: of OAUTHBEARER or XOAUTH2."""

    token: bytes = Attribute("The token; a secret, in no repr and no message.")
    authorization_id: bytes = Attribute("For whom the client wants to act, or b'' when it does not say.")


@implementer(IBearer)
@dataclass(frozen=True, slots=True)
class BearerCredentials:
    """A token as credentials."""

    token: bytes = field(repr=False)
    authorization_id: bytes = b""


class TokensUnavailable(Exception):  # noqa: N818 (it is an answer, named as such)
    """Whose a token is cannot be found out now; the message is for the log, and tells neither the token nor any secret."""


@dataclass(frozen=True, slots=True)
class ScramSource:
    """
    What exchanges of SCRAM need.

    Shape:  `find_keys` gets a user name, and for who has no keys, or may not log in, it finds some that nobody has;
            `make_nonce` makes printable ASCII without comma, new each time.
    """

    find_keys: Callable[[bytes], Awaitable[ScramKeys]]
    make_nonce: Callable[[], str]
