"""
The doors: the interfaces by which a plugin extends mailstack.

A plugin is an object in a module of the package `mailstack.plugins` (of any distribution) that provides one of these interfaces
and twisted.plugin.IPlugin. It is active only when the configuration names it; a name that is not found, or whose `make` raises,
refuses the start.

The first door is *policy*: a decision about a session, a transaction or its content.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface, implementer

from mailstack.mail.address import Address
from mailstack.mail.envelope import Content, Origin
from mailstack.mail.verdict import ACCEPT, Accept, Refuse, Verdict, defer, reject

Answer = Verdict | None | Awaitable[Verdict | None]
"""What a policy's method may return: a verdict, None for no opinion, or a Deferred or coroutine of either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """
    What a policy is told about a transaction.

    Shape:  `recipients` are the forward-paths accepted so far; `parameters` are those of MAIL, keys in upper case. `header` is
            the header section as it came, once the content is there, at most `mail.headers.HEADER_OCTETS` of it.
    """

    origin: Origin
    reverse_path: Address | None
    recipients: tuple[Address, ...] = ()
    parameters: Mapping[str, str] | None = None
    header: bytes = b""


class House(Protocol):
    """What a policy may ask about this installation."""

    @property
    def hostname(self) -> str:
        """Our own name, as in the greeting."""

    async def is_local_domain(self, domain: str) -> bool:
        """Say whether mail for the domain is delivered here."""

    async def owns(self, account: str, address: Address) -> bool:
        """Say whether the account may send as the address."""


class Policy:
    """
    A decision about mail that comes in. Override what you need; each method may be an ordinary one or `async`.

    Called:   for every session or transaction, in the order in which the configuration names the policies.
    Answers:  None (no opinion), ACCEPT (stop asking at this stage), reject(…) or defer(…).
    Errors:   a method that raises, or gives no answer in time, defers the mail (451); it never loses or refuses it for good.
    """

    house: House
    """Set before the first call."""

    def on_connect(self, origin: Origin) -> Answer:
        """
        Judge a connection; only `origin.service`, `origin.peer` and `origin.session` are known.

        It is asked again when a peer that is trusted says who its client is (XCLIENT): with the client's address and whatever
        else was said of it, an account among them.
        """

    def on_hello(self, origin: Origin) -> Answer:
        """Judge EHLO, HELO or LHLO."""

    def on_auth(self, origin: Origin) -> Answer:
        """Judge a peer that has just authenticated as `origin.account`."""

    def on_mail(self, transaction: Transaction) -> Answer:
        """Judge the reverse-path."""

    def on_rcpt(self, transaction: Transaction, recipient: Address) -> Answer:
        """Judge one forward-path; the others stand in `transaction.recipients`."""

    def on_content(self, transaction: Transaction, content: Content) -> Answer:
        """Judge the whole message, before it is accepted."""


class IPolicyMaker(Interface):
    """Makes a policy from its part of the configuration."""

    name: str = Attribute("The name by which the configuration activates it.")

    def make(options: Mapping[str, Any], house: House) -> Policy:  # noqa: N805 (an Interface's method has no self)
        """
        Make the policy.

        Shape:   `options` is the table `[policy.options.NAME]` of the configuration, or empty.
        Raises:  ValueError: the options are wrong; the message is shown to the operator and the start is refused.
        """


@implementer(IPlugin, IPolicyMaker)
@dataclass(frozen=True)
class PolicyPlugin:
    """
    Offers a policy under a name; the plugin object of a module in `mailstack.plugins`.

    Shape:  `factory` is called with the options as keyword arguments: a Policy class usually.
    """

    name: str
    factory: Callable[..., Policy]

    def make(self, options: Mapping[str, Any], house: House) -> Policy:
        """Make the policy and tell it of the house; options that the factory does not know become a ValueError."""
        try:
            policy = self.factory(**options)
        except TypeError as error:
            raise ValueError(str(error)) from error
        policy.house = house
        return policy


__all__ = [
    "ACCEPT",
    "Accept",
    "Address",
    "Answer",
    "Content",
    "House",
    "IPolicyMaker",
    "Origin",
    "Policy",
    "PolicyPlugin",
    "Refuse",
    "Transaction",
    "Verdict",
    "defer",
    "reject",
]
