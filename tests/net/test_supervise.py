"""Coroutines in the background: no failure is lost, and all can be ended."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailstack.net.supervise import Supervisor


class SupervisorTests(SynchronousTestCase):
    def test_a_coroutine_runs_at_once_and_is_forgotten_at_its_end(self) -> None:
        supervisor, gate, seen = Supervisor(), Deferred[None](), []

        async def work() -> None:
            seen.append("started")
            await gate
            seen.append("ended")

        ended = supervisor.start(work(), "work")
        self.assertEqual((["started"], 1), (seen, len(supervisor)))
        gate.callback(None)
        self.assertIsNone(self.successResultOf(ended))
        self.assertEqual((["started", "ended"], 0), (seen, len(supervisor)))

    def test_a_failure_is_logged_with_its_name(self) -> None:
        async def work() -> None:
            raise OSError("disk on fire")

        self.assertIsNone(self.successResultOf(Supervisor().start(work(), "work")))
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))

    def test_stop_cancels_what_runs_and_waits_for_it(self) -> None:
        supervisor, seen = Supervisor(), []

        async def work() -> None:
            try:
                await Deferred()
            except CancelledError:
                seen.append("cancelled")
                raise

        supervisor.start(work(), "one")
        supervisor.start(work(), "two")
        self.successResultOf(Deferred.fromCoroutine(supervisor.stop()))
        self.assertEqual((["cancelled", "cancelled"], 0), (seen, len(supervisor)))

    def test_a_coroutine_that_waits_twice_gets_what_it_waits_for_and_its_failures(self) -> None:
        supervisor, gates, seen = Supervisor(), [Deferred[int](), Deferred[int]()], []

        async def work() -> None:
            seen.append(await gates[0])
            try:
                await gates[1]
            except OSError as error:
                seen.append(str(error))

        ended = supervisor.start(work(), "work")
        gates[0].callback(7)
        gates[1].errback(OSError("torn"))
        self.assertIsNone(self.successResultOf(ended))
        self.assertEqual([7, "torn"], seen)

    def test_one_that_is_cancelled_before_it_waits_ends_quietly(self) -> None:
        async def work() -> None:
            raise CancelledError

        self.assertIsNone(self.successResultOf(Supervisor().start(work(), "work")))
