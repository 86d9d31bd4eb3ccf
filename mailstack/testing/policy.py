"""
Ask a policy, offline.

    policy = make(greylist, minutes=5)
    assert ask(policy.on_rcpt, transaction(peer="192.0.2.1"), address("bob@example.test")).reply.code == 451
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from mailstack.doors import House, IPolicyMaker, Policy, Transaction
from mailstack.mail.address import Address, parse_address
from mailstack.mail.envelope import Origin, Service
from mailstack.mail.verdict import Accept, Refuse, Verdict


@dataclass
class FakeHouse:
    """An installation in memory: its hostname, its domains, and which addresses an account may use besides its own."""

    hostname: str = "mail.example.test"
    domains: frozenset[str] = frozenset({"example.test"})
    owned: Mapping[str, frozenset[str]] = field(default_factory=dict)

    async def is_local_domain(self, domain: str) -> bool:
        """Say whether the domain is one of `domains`."""
        return domain in self.domains

    async def owns(self, account: str, address: Address) -> bool:
        """Say whether the address is the account's own or listed for it."""
        return str(address) == account or str(address) in self.owned.get(account, frozenset())


def make(maker: IPolicyMaker, house: House | None = None, **options: Any) -> Policy:
    """Make a policy as the server would, from the options that would stand in its part of the configuration."""
    return maker.make(options, house or FakeHouse())


def transaction(
    reverse_path: str | None = "carol@remote.test",
    *recipients: str,
    service: Service = Service.SMTP,
    header: bytes = b"",
    **origin: Any,
) -> Transaction:
    """Make a transaction; `origin` takes the fields of `Origin`: peer, hello, account, tls …"""
    return Transaction(
        origin=Origin(service=service, **{"peer": "192.0.2.1", "hello": "client.remote.test", **origin}),
        reverse_path=parse_address(reverse_path) if reverse_path else None,
        recipients=tuple(parse_address(each) for each in recipients),
        header=header,
    )


def ask(method: Callable[..., Any], *facts: object) -> Verdict | None:
    """
    Ask one method of a policy and return its verdict.

    Raises:  AssertionError: the answer is no verdict, or did not come at once; whatever the policy raises.
    """
    answer = method(*facts)
    if isinstance(answer, Awaitable):
        outcomes: list[Any] = []
        failures: list[Any] = []
        waiting: Deferred[Any] = maybeDeferred(lambda: answer)
        waiting.addCallbacks(outcomes.append, failures.append)
        if failures:
            failures[0].raiseException()
        assert outcomes, "the policy waits for something that a test must provide"
        answer = outcomes[0]
    assert answer is None or isinstance(answer, Accept | Refuse), f"{answer!r} is not a verdict"
    return answer
