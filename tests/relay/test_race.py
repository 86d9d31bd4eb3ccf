"""The race of a host's addresses: who is tried when, who wins, and that nothing of the others is left."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailstack.relay.race import race


class Track:
    """Connections that a test lets come about or fail."""

    def __init__(self):
        self.clock = Clock()
        self.begun = []
        self.cancelled = []
        self.answers = {}
        self.running = {}

    def connect(self, runner):
        self.begun.append(runner)
        if runner in self.answers:
            return self.answers[runner]()
        self.running[runner] = Deferred(lambda _: self.cancelled.append(runner))
        return self.running[runner]

    def race(self, runners):
        return race(list(runners), self.connect, self.clock, 0.25)


class Protocol:
    aborted = False

    def abort(self):
        self.aborted = True


class RaceTests(SynchronousTestCase):
    def setUp(self):
        self.track = Track()

    def finished(self, finish, winner, failures=""):
        found = self.successResultOf(finish)
        self.assertEqual((found.winner, [runner for runner, _ in found.failures]), (winner, list(failures)))
        self.assertEqual(self.track.clock.getDelayedCalls(), [])
        return found

    def test_the_first_is_enough(self):
        finish = self.track.race("abc")
        self.track.clock.advance(0.24)
        protocol = Protocol()
        self.track.running["a"].callback(protocol)
        self.assertIs(self.finished(finish, "a").protocol, protocol)
        self.assertEqual((self.track.begun, self.track.cancelled), (["a"], []))

    def test_who_does_not_answer_is_joined_by_the_next(self):
        finish = self.track.race("abc")
        self.assertEqual(self.track.begun, ["a"])
        self.track.clock.advance(0.25)
        self.assertEqual(self.track.begun, ["a", "b"])
        self.track.clock.advance(0.25)
        self.assertEqual(self.track.begun, ["a", "b", "c"])
        self.assertEqual(self.track.clock.getDelayedCalls(), [])
        self.track.running["b"].callback(Protocol())
        self.finished(finish, "b")
        self.assertEqual(self.track.cancelled, ["a", "c"])

    def test_who_fails_is_followed_at_once(self):
        finish = self.track.race("abc")
        self.track.running["a"].errback(OSError("no route"))
        self.assertEqual(self.track.begun, ["a", "b"])
        self.track.clock.advance(0.24)
        self.assertEqual(self.track.begun, ["a", "b"])
        self.track.clock.advance(0.01)
        self.assertEqual(self.track.begun, ["a", "b", "c"])
        self.track.running["c"].callback(Protocol())
        found = self.finished(finish, "c", "a")
        self.assertEqual(str(found.failures[0][1]), "no route")
        self.assertEqual(self.track.cancelled, ["b"])

    def test_all_fail(self):
        finish = self.track.race("abc")
        self.track.clock.advance(0.25)
        self.track.running["b"].errback(OSError())
        self.track.running["c"].errback(OSError())
        self.assertNoResult(finish)
        self.track.running["a"].errback(OSError())
        self.finished(finish, None, "bca")

    def test_all_fail_within_the_call(self):
        self.track.answers = {each: lambda: fail(OSError()) for each in "abc"}
        self.finished(self.track.race("abc"), None, "abc")

    def test_one_wins_within_the_call(self):
        self.track.answers = {"a": lambda: fail(OSError()), "b": lambda: succeed(Protocol())}
        self.finished(self.track.race("abc"), "b", "a")
        self.assertEqual(self.track.begun, ["a", "b"])

    def test_what_raises_has_failed(self):
        def broken():
            raise ValueError("a bug")

        self.track.answers = {"a": broken, "b": lambda: succeed(Protocol())}
        found = self.finished(self.track.race("ab"), "b", "a")
        self.assertEqual(str(found.failures[0][1]), "a bug")

    def test_one_alone_needs_no_timer(self):
        finish = self.track.race("a")
        self.assertEqual(self.track.clock.getDelayedCalls(), [])
        self.track.running["a"].errback(OSError())
        self.finished(finish, None, "a")

    def test_cancelled(self):
        finish = self.track.race("abc")
        self.track.clock.advance(0.25)
        finish.cancel()
        self.failureResultOf(finish, CancelledError)
        self.assertEqual(self.track.cancelled, ["a", "b"])
        self.track.clock.advance(1)
        self.assertEqual(self.track.begun, ["a", "b"])
        self.assertEqual(self.track.clock.getDelayedCalls(), [])

    def test_a_connection_that_cannot_be_called_off_any_more_is_cut(self):
        late = Protocol()
        self.track.answers = {"a": lambda: Deferred(lambda running: running.callback(late))}
        finish = self.track.race("ab")
        self.track.clock.advance(0.25)
        self.track.running["b"].callback(Protocol())
        self.finished(finish, "b")
        self.assertTrue(late.aborted)
