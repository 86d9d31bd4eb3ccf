"""The chain: order, first verdict, and that no policy can lose mail."""

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailstack.doors import ACCEPT, Policy, defer, reject
from mailstack.mail.address import Address
from mailstack.mail.envelope import Service
from mailstack.mail.reply import LOCAL_ERROR
from mailstack.mail.verdict import Refuse
from mailstack.policy.chain import ANSWER_SECONDS, Chain
from mailstack.testing.policy import transaction

BOB = Address("bob", "example.test")
REJECTED, DEFERRED = reject("no"), defer("later")


def policy(answer: Callable[..., Any]) -> Policy:
    made = Policy()
    for method in ("on_connect", "on_hello", "on_auth", "on_mail", "on_rcpt", "on_content"):
        setattr(made, method, answer)
    return made


class ChainTests(SynchronousTestCase):
    def ask(self, *answers: Callable[..., Any]) -> object:
        self.clock = Clock()
        chain = Chain([(str(number), policy(answer)) for number, answer in enumerate(answers)], self.clock)
        return Deferred.fromCoroutine(chain.rcpt(transaction(), BOB))

    def assert_verdict(self, expected: Refuse | None, *answers: Callable[..., Any]) -> None:
        self.assertEqual(expected, self.successResultOf(self.ask(*answers)))

    def test_no_policy_has_an_opinion(self) -> None:
        self.assert_verdict(None)
        self.assert_verdict(None, lambda *facts: None)

    def test_the_first_verdict_stands(self) -> None:
        self.assert_verdict(REJECTED, lambda *f: None, lambda *f: REJECTED, lambda *f: DEFERRED)
        self.assert_verdict(None, lambda *f: ACCEPT, lambda *f: REJECTED)

    def test_answers_may_be_deferreds_and_coroutines(self) -> None:
        async def answer(*facts: object) -> Refuse:
            return DEFERRED

        self.assert_verdict(DEFERRED, answer)
        self.assert_verdict(DEFERRED, lambda *f: succeed(DEFERRED))

    def test_a_policy_that_raises_defers(self) -> None:
        def broken(*facts: object) -> None:
            raise RuntimeError("secret path /etc/x")

        verdict = self.successResultOf(self.ask(broken, lambda *f: ACCEPT))
        self.assertEqual(LOCAL_ERROR, verdict.reply)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_a_policy_that_hangs_defers(self) -> None:
        waiting = self.ask(lambda *f: Deferred())
        self.assertNoResult(waiting)
        self.clock.advance(ANSWER_SECONDS)
        self.assertEqual(LOCAL_ERROR, self.successResultOf(waiting).reply)
        self.assertEqual(1, len(self.flushLoggedErrors()))

    def test_an_answer_that_is_no_verdict_defers(self) -> None:
        for answer in (True, "accept", 550):
            self.assertEqual(LOCAL_ERROR, self.successResultOf(self.ask(lambda *f, a=answer: a)).reply)
        self.assertEqual(3, len(self.flushLoggedErrors(TypeError)))

    def test_a_session_that_ends_cancels_the_question(self) -> None:
        cancelled: list[bool] = []
        waiting = self.ask(lambda *f: Deferred(lambda d: cancelled.append(True)))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual([True], cancelled)


class StageTests(SynchronousTestCase):
    def test_every_stage_asks_its_own_method(self) -> None:
        asked: list[str] = []

        class Asked(Policy):
            def on_connect(self, origin: object) -> None:
                asked.append("connect")

            def on_hello(self, origin: object) -> None:
                asked.append("hello")

            def on_auth(self, origin: object) -> None:
                asked.append("auth")

            def on_mail(self, facts: object) -> None:
                asked.append("mail")

            def on_rcpt(self, facts: object, recipient: object) -> None:
                asked.append("rcpt")

            def on_content(self, facts: object, content: object) -> None:
                asked.append("content")

        chain = Chain([("asked", Asked())], Clock())
        facts = transaction(service=Service.SMTP)
        for question in (
            chain.connect(facts.origin), chain.hello(facts.origin), chain.auth(facts.origin), chain.mail(facts),
            chain.rcpt(facts, BOB), chain.content(facts, object()),  # type: ignore[arg-type]
        ):  # fmt: skip
            self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(question)))
        self.assertEqual(["connect", "hello", "auth", "mail", "rcpt", "content"], asked)


@pytest.mark.parametrize("stage", ["connect", "hello", "auth", "mail"])
def test_a_policy_without_methods_is_not_asked(stage: str) -> None:
    chain = Chain([("nothing", Policy())], Clock())
    assert not any(chain._asked.values())
