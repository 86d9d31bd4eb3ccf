"""
The chain: asks every policy at a stage, in order, until one has a verdict.

The one bulkhead around code of plugins. Whatever a policy does wrong (it raises, hangs, or answers with something that is no
verdict) becomes a temporary refusal of what it was asked about, and a log event that names it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from mailstack import events
from mailstack.coroutines import begin
from mailstack.doors import Policy, Transaction
from mailstack.mail.address import Address
from mailstack.mail.envelope import Content, Origin
from mailstack.mail.reply import LOCAL_ERROR
from mailstack.mail.verdict import Accept, Refuse, Stage

ANSWER_SECONDS: Final = 30.0


class Chain:
    """
    Asks policies in order; the first verdict stands.

    Shape:  `policies` are (name, policy) in order.
    Units:  `answer_seconds` is how long one policy may take for one answer.
    """

    def __init__(
        self, policies: Sequence[tuple[str, Policy]], clock: IReactorTime, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        self._policies = tuple(policies)
        self._clock = clock
        self._answer_seconds = answer_seconds
        # A stage at which no policy has its own method costs nothing on the road.
        self._asked = {
            stage: tuple((name, getattr(policy, method)) for name, policy in self._policies if _overrides(policy, method))
            for stage, method in _METHODS.items()
        }

    async def connect(self, origin: Origin) -> Refuse | None:
        """Ask about a connection."""
        return await self._ask(Stage.CONNECT, origin)

    async def hello(self, origin: Origin) -> Refuse | None:
        """Ask about EHLO, HELO or LHLO."""
        return await self._ask(Stage.HELLO, origin)

    async def auth(self, origin: Origin) -> Refuse | None:
        """Ask about a peer that has authenticated."""
        return await self._ask(Stage.AUTH, origin)

    async def mail(self, transaction: Transaction) -> Refuse | None:
        """Ask about a reverse-path."""
        return await self._ask(Stage.MAIL, transaction)

    async def rcpt(self, transaction: Transaction, recipient: Address) -> Refuse | None:
        """Ask about a forward-path."""
        return await self._ask(Stage.RCPT, transaction, recipient)

    async def content(self, transaction: Transaction, content: Content) -> Refuse | None:
        """Ask about a whole message."""
        return await self._ask(Stage.CONTENT, transaction, content)

    async def _ask(self, stage: Stage, *facts: object) -> Refuse | None:
        for name, method in self._asked[stage]:
            try:
                answer = await self._answer(method, facts)
            except CancelledError:
                raise
            except Exception:
                events.policy_failed(name, stage, Failure())
                return Refuse(LOCAL_ERROR, f"policy {name} failed")
            if isinstance(answer, Refuse):
                return answer
            if answer is not None:
                return None
        return None

    async def _answer(self, method: Callable[..., Any], facts: Sequence[object]) -> Accept | Refuse | None:
        answer = method(*facts)
        if answer is None:
            return None
        if isinstance(answer, Coroutine):
            answer = begin(answer)
        if isinstance(answer, Awaitable):
            waiting: Deferred[Any] = maybeDeferred(lambda: answer)
            answer = await waiting.addTimeout(self._answer_seconds, self._clock)
        if answer is None or isinstance(answer, Accept | Refuse):
            return answer
        raise TypeError(f"{answer!r} is not a verdict")


_METHODS: Final = {
    Stage.CONNECT: "on_connect",
    Stage.HELLO: "on_hello",
    Stage.AUTH: "on_auth",
    Stage.MAIL: "on_mail",
    Stage.RCPT: "on_rcpt",
    Stage.CONTENT: "on_content",
}


def _overrides(policy: Policy, method: str) -> bool:
    return getattr(type(policy), method) is not getattr(Policy, method) or method in vars(policy)
