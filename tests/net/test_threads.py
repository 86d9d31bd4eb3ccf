"""What comes of a call in a thread is never left without an owner."""

import threading

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailstack.net.threads import Threads, kept


class KeptTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.given_back: list[str] = []
        self.making: Deferred[str] = Deferred()
        self.waiting = kept(self.making, self.given_back.append)

    def test_who_waits_gets_it(self) -> None:
        self.making.callback("lock")
        self.assertEqual("lock", self.successResultOf(self.waiting))
        self.assertEqual([], self.given_back)

    def test_what_comes_after_the_waiting_ended_is_given_back(self) -> None:
        self.waiting.cancel()
        self.failureResultOf(self.waiting, CancelledError)
        self.making.callback("lock")
        self.assertEqual(["lock"], self.given_back)

    def test_a_failure_is_handed_over(self) -> None:
        self.making.errback(Failure(OSError("no")))
        self.failureResultOf(self.waiting, OSError)

    def test_a_failure_after_the_waiting_ended_concerns_nobody(self) -> None:
        self.waiting.cancel()
        self.failureResultOf(self.waiting, CancelledError)
        self.making.errback(Failure(OSError("no")))
        self.assertEqual([], self.given_back)


class ThreadsTests(TestCase):
    async def test_calls_run_in_threads_of_the_pool_and_answer_in_the_reactor(self) -> None:
        from twisted.internet import reactor

        threads = Threads(reactor, "disk", 1)
        threads.start()
        self.addCleanup(threads.stop)
        here = threading.get_ident()
        self.assertNotEqual(here, await threads.run(threading.get_ident))
        self.assertEqual(here, threading.get_ident())
        self.assertEqual(7, await threads.run(int, "11", base=6))
        with self.assertRaises(ValueError):
            await threads.run(int, "x")
