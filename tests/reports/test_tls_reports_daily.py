from __future__ import annotations

import base64
import email
import gzip
import json
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.address import Address
from mailstack.mail.pages import NoPage, Page
from mailstack.mail.tls_reports import MEDIA_TYPE, ReportSource
from mailstack.mail.tls_results import NOT_REPORTED, AppliedPolicy, TLSFailure
from mailstack.reports import tls
from mailstack.reports.counts import day_of, domains_of
from mailstack.reports.tls import Means, TLSReports
from mailstack.testing.dns import FakeResolver, parse_zone

DAY = 86_400
NOON = 20_000 * DAY + DAY / 2  # of 2024-10-04
STS = AppliedPolicy("sts", "a.test", ("mode: enforce",), ("mx.a.test",))
TLSA = AppliedPolicy("tlsa", "mx.b.test", ("3 1 1 00",))
MAILTO = '_smtp._tls.a.test TXT "v=TLSRPTv1; rua=mailto:r@a.test"'


class DailyTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.rightNow = NOON
        self.resolver = FakeResolver(MAILTO)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.mails, self.posts = [], []
        self.accepts, self.page, self.fails_for = True, Page(200, "", b""), ""
        self.ids = iter(range(100))
        self.reports = self.make()
        self.reports.start()

    def make(self, worker=0, chance=0.0):
        means = Means(
            clock=self.clock,
            start=lambda coroutine, what: Deferred.fromCoroutine(coroutine),
            run_in_thread=maybeDeferred,
            texts=self.resolver,
            submit=self.submit,
            post=self.post,
            chance=lambda: chance,
            make_id=lambda: f"id{next(self.ids)}",
        )
        source = ReportSource("Us", Address("postmaster", "us.test"), "us.test")
        return TLSReports(self.folder, worker, source, means)

    async def submit(self, sender, recipient, content):
        if recipient.domain == self.fails_for:
            raise OSError("no disk")
        self.mails.append((sender, recipient, content))
        return self.accepts

    async def post(self, *asked):
        self.posts.append(asked)
        return await self.page if isinstance(self.page, Deferred) else self.page

    def advance(self, seconds, step=600):
        for _ in range(int(seconds // step)):
            self.clock.advance(step)

    def record(self, text):
        self.resolver.zone = parse_zone(text)

    def document(self, number=-1):
        message = email.message_from_bytes(self.mails[number][2])
        return json.loads(gzip.decompress(base64.b64decode(message.get_payload()[1].get_payload())))

    def test_yesterday_is_told_once(self):
        self.reports.session(STS, "mx.a.test", "192.0.2.1", "192.0.2.2")
        self.reports.session(STS, "mx.a.test", "192.0.2.1", "192.0.2.2", TLSFailure.CERTIFICATE_EXPIRED, "it\nis old")
        self.advance(DAY / 2 - 600)
        self.assertEqual(self.mails, [])
        self.advance(DAY)
        ((sender, recipient, _),) = self.mails
        self.assertEqual((str(sender), str(recipient)), ("postmaster@us.test", "r@a.test"))
        document = self.document()
        self.assertEqual(document["date-range"]["start-datetime"], "2024-10-04T00:00:00Z")
        self.assertEqual(document["report-id"], "id0@us.test")
        (policy,) = document["policies"]
        self.assertEqual(policy["summary"], {"total-successful-session-count": 1, "total-failure-session-count": 1})
        self.assertEqual(policy["failure-details"][0]["failure-reason-code"], "it?is old")
        self.advance(3 * DAY)
        self.assertEqual(len(self.mails), 1)

    def test_not_again_after_a_restart(self):
        self.reports.session(STS, "mx.a.test")
        self.advance(DAY / 2 + 1_200)
        self.assertEqual(len(self.mails), 1)
        self.successResultOf(Deferred.fromCoroutine(self.reports.stop()))
        self.reports = self.make()
        self.reports.start()
        self.advance(DAY / 3)
        self.assertEqual(len(self.mails), 1)

    def test_what_was_counted_outlives_us(self):
        self.reports.session(STS, "mx.a.test")
        self.successResultOf(Deferred.fromCoroutine(self.reports.stop()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.reports = self.make()
        self.reports.start()
        self.advance(DAY)
        self.assertEqual(len(self.mails), 1)

    def test_who_never_takes_a_report_keeps_nothing_from_being_counted(self):
        self.record('_smtp._tls.a.test TXT "v=TLSRPTv1; rua=https://a.test/"')
        self.page = Deferred()
        self.reports.session(STS, "mx.a.test")
        self.advance(DAY)
        self.assertEqual(len(self.posts), 1)
        self.reports.session(AppliedPolicy("sts", "b.test"), "mx.b.test")
        self.advance(1_200)
        self.assertEqual(domains_of(self.folder, day_of(self.clock.seconds())), ["b.test"])

    def test_who_never_takes_a_report_or_fails_keeps_nobody_else_from_being_told(self):
        self.record(
            '_smtp._tls.a.test TXT "v=TLSRPTv1; rua=https://a.test/"\n'
            '_smtp._tls.b.test TXT "v=TLSRPTv1; rua=mailto:r@b.test"\n'
            '_smtp._tls.c.test TXT "v=TLSRPTv1; rua=mailto:r@c.test"'
        )
        self.page = Deferred()
        self.fails_for = "b.test"
        for domain in ("a.test", "b.test", "c.test"):
            self.reports.session(AppliedPolicy("sts", domain), f"mx.{domain}")
        self.advance(DAY / 2 + 1_200)
        self.assertEqual([str(recipient) for _, recipient, _ in self.mails], ["r@c.test"])
        self.assertEqual(len(self.posts), 1)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_the_day_after_the_report_of_a_day_is_not_gone_on_with(self):
        self.patch(tls, "TOLD_AT_ONCE", 1)
        self.record(
            '_smtp._tls.a.test TXT "v=TLSRPTv1; rua=https://a.test/"\n_smtp._tls.b.test TXT "v=TLSRPTv1; rua=mailto:r@b.test"'
        )
        self.page = Deferred()
        self.reports.session(STS, "mx.a.test")
        self.reports.session(AppliedPolicy("sts", "b.test"), "mx.b.test")
        self.advance(2 * DAY)
        self.page.callback(NoPage("no answer in time"))
        self.assertEqual(self.mails, [])

    def test_the_first_worker_tells_for_all(self):
        others = [self.make(worker) for worker in (1, 2)]
        for each in (self.reports, *others):
            each.session(STS, "mx.a.test")
        for each in others:
            each.start()
        self.advance(DAY)
        self.assertEqual(len(self.mails), 1)
        self.assertEqual(self.document()["policies"][0]["summary"]["total-successful-session-count"], 3)

    def test_some_time_after_midnight(self):
        self.successResultOf(Deferred.fromCoroutine(self.reports.stop()))
        self.reports = self.make(chance=0.5)
        self.reports.start()
        self.reports.session(STS, "mx.a.test")
        self.advance(DAY / 2 + 7_200 - 600)
        self.assertEqual(self.mails, [])
        self.advance(1_200)
        self.assertEqual(len(self.mails), 1)

    def test_who_does_not_ask_is_not_told(self):
        self.record("a.test MX 10 mx.a.test")
        self.reports.session(STS, "mx.a.test")
        self.advance(DAY)
        asked = [name for name, _ in self.resolver.asked]
        self.assertEqual((asked, self.mails), (["_smtp._tls.a.test"], []))

    def test_sessions_that_nobody_wants_to_hear_of(self):
        self.reports.session(NOT_REPORTED, "smarthost.test")
        self.advance(DAY)
        self.assertEqual(self.resolver.asked, [])

    def test_several_domains(self):
        self.record(MAILTO + '\n_smtp._tls.mx.b.test TXT "v=TLSRPTv1; rua=mailto:r@b.test"')
        self.reports.session(STS, "mx.a.test")
        self.reports.session(TLSA, "mx.b.test", failure=TLSFailure.DNSSEC_INVALID)
        self.advance(DAY)
        self.assertEqual([str(to) for _, to, _ in self.mails], ["r@a.test", "r@b.test"])
        self.assertEqual(self.document()["policies"][0]["policy"]["policy-type"], "tlsa")

    def test_it_is_tried_again_until_the_day_is_over(self):
        self.reports.session(STS, "mx.a.test")
        self.record("_smtp._tls.a.test SERVFAIL")
        self.advance(DAY / 2 + 3_600)
        self.record(MAILTO)
        self.accepts = False
        self.advance(7_200)
        refused = len(self.mails)
        self.assertGreaterEqual(refused, 1)
        self.accepts = True
        self.advance(7_200)
        self.assertEqual(len(self.mails), refused + 1)
        self.assertLessEqual(refused, 3, "not more than once an hour")

    def test_by_https(self):
        self.record('_smtp._tls.a.test TXT "v=TLSRPTv1; rua=https://r.a.test/in"')
        self.reports.session(STS, "mx.a.test")
        self.page = NoPage("refused")
        self.advance(DAY / 2 + 1_200)
        self.page = Page(201, "", b"")
        self.advance(DAY / 4)
        self.assertEqual(len(self.posts), 2)
        host, port, path, media_type, octets = self.posts[1]
        self.assertEqual((host, port, path, media_type), ("r.a.test", None, "/in", MEDIA_TYPE))
        self.assertEqual(json.loads(gzip.decompress(octets))["organization-name"], "Us")

    def test_a_disk_that_fails_costs_reports_and_nothing_else(self):
        (self.folder / "0.db").write_bytes(b"x" * 1_000)
        self.reports.session(STS, "mx.a.test")
        self.advance(DAY)
        self.assertEqual(self.mails, [])
        self.assertTrue(self.flushLoggedErrors())
        self.assertTrue(self.clock.getDelayedCalls())
