"""
What twisted.cred is shown of somebody who has proved to know a password without telling it, or has shown a certificate.

A realm's checkers for user names and passwords know nothing of these. Where proofs are to be taken, there is a ScramSource,
which says what the exchange needs in its midst, and a checker for IScramProof, which says in the end whose the proof is. Where
certificates are to be taken, there is a checker for ICertified.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class ScramSource:
    """
    What exchanges of SCRAM need.

    Shape:  `find_keys` gets a user name, and for who has no keys, or may not log in, it finds some that nobody has;
            `make_nonce` makes printable ASCII without comma, new each time.
    """

    find_keys: Callable[[bytes], Awaitable[ScramKeys]]
    make_nonce: Callable[[], str]
