"""MTA-STS policies over time: found, kept, renewed, and what a policy host may do wrong."""

from __future__ import annotations

import gc
import json
import tempfile
import tracemalloc
from pathlib import Path

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.mta_sts import Mode, Standing
from mailstack.mail.pages import NoPage, Page
from mailstack.mail.tls_results import TLSFailure
from mailstack.relay import policies
from mailstack.relay.policies import Policies
from mailstack.testing.dns import FakeResolver, parse_zone

DAY = 86_400
RECORD = '_mta-sts.example.test TXT "v=STSv1; id=1;"'
TWO = RECORD + "\n" + RECORD.replace("id=1", "id=2")


def policy(mode="enforce", host="mx.test", max_age=DAY):
    return f"version: STSv1\nmode: {mode}\nmx: {host}\nmax_age: {max_age}\n".encode()


class Memory(dict):
    def read(self, key):
        return self.get(key)

    def write(self, key, octets):
        self[key] = octets


class Disk:
    def __init__(self, folder):
        self.folder = Path(folder)

    def read(self, key):
        file = self.folder / key
        return file.read_bytes() if file.exists() else None

    def write(self, key, octets):
        (self.folder / key).write_bytes(octets)


def longest(domain):
    """Return a policy that is as long as one can be."""
    long = ".".join(["x" * 63] * 3)
    hosts = "".join(f"mx: {number}.{long}.{domain}\n" for number in range(200))
    return f"version: STSv1\nmode: enforce\n{hosts}max_age: 31557600\n".encode()


class PoliciesTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.advance(1_000_000)
        self.resolver = FakeResolver(RECORD)
        self.page = Page(200, "text/plain", policy())
        self.asked = []
        self.kept = Memory()
        self.running = []
        self.disk = None  # a Deferred: it has done what it was asked for, and says so later
        self.policies = self.make()

    def make(self):
        return Policies(self.resolver, self.fetch, self.clock, self.start, self.run_in_thread, self.kept)

    def run_in_thread(self, function, *arguments):
        if self.disk is None:
            return maybeDeferred(function, *arguments)
        return self.disk.addCallback(lambda _, found: found, function(*arguments))

    def start(self, coroutine, what):
        self.running.append(Deferred.fromCoroutine(coroutine))
        return self.running[-1]

    async def fetch(self, host, path, most_octets):
        self.asked.append(f"https://{host}{path}")
        return await self.page if isinstance(self.page, Deferred) else self.page

    def standing(self, domain="example.test"):
        return self.successResultOf(Deferred.fromCoroutine(self.policies.standing(domain)))

    def record(self, text):
        self.resolver.zone = parse_zone(text)

    def host(self):
        found = self.standing().policy
        return None if found is None else found.hosts[0]

    def test_found_fetched_and_kept(self):
        for _ in range(3):
            self.assertEqual(self.standing().policy.mode, Mode.ENFORCE)
        self.assertEqual(self.asked, ["https://mta-sts.example.test/.well-known/mta-sts.txt"])

    def test_a_domain_without_a_record_is_not_fetched_for(self):
        for zone in ("", "_mta-sts.example.test SERVFAIL", "_mta-sts.example.test TXT v=spf1", TWO):
            self.record(zone)
            self.assertEqual(self.standing(), Standing(is_unknown="SERVFAIL" in zone))
        self.assertEqual(self.asked, [])

    def test_it_outlives_us(self):
        self.standing()
        self.policies = self.make()
        self.record("_mta-sts.example.test SERVFAIL")
        self.assertEqual(self.host(), "mx.test")
        self.assertEqual(len(self.asked), 1)

    def test_what_is_kept_and_makes_no_sense_is_fetched_anew(self):
        self.standing()
        good = json.loads(self.kept["example.test"])
        for octets in (b"", b"{", b"[]", b"\xff", b"[" * 100_000, *(json.dumps({**good, key: None}).encode() for key in good)):
            self.kept["example.test"] = octets
            self.policies = self.make()
            self.asked.clear()
            self.assertEqual((self.host(), len(self.asked)), ("mx.test", 1), octets[:100])

    def test_an_attacker_cannot_make_it_be_forgotten(self):
        self.standing()
        self.page = NoPage("refused")
        for zone in ("", "_mta-sts.example.test SERVFAIL", RECORD.replace("id=1", "id=2"), TWO):
            self.record(zone)
            self.clock.advance(400)
            self.assertEqual(self.host(), "mx.test")

    def test_its_time_is_over(self):
        self.standing()
        self.page = NoPage("refused")
        self.clock.advance(DAY - 1)
        self.assertEqual(self.host(), "mx.test")
        self.clock.advance(1)
        self.assertEqual(self.standing(), Standing(None, TLSFailure.STS_POLICY_FETCH_ERROR, "refused"))

    def test_another_id_is_another_policy(self):
        self.standing()
        self.page = Page(200, "text/plain", policy(host="new.test"))
        self.assertEqual(self.host(), "mx.test")
        self.record(RECORD.replace("id=1", "id=2"))
        self.assertEqual([self.host(), self.host(), len(self.asked)], ["new.test", "new.test", 2])

    def test_another_id_whose_policy_cannot_be_had_is_tried_again_now_and_then(self):
        self.standing()
        self.page = NoPage("refused")
        self.record(RECORD.replace("id=1", "id=2"))
        for _ in range(10):
            self.assertEqual(self.host(), "mx.test")
        self.assertEqual(len(self.asked), 2)
        self.clock.advance(300)
        self.page = Page(200, "text/plain", policy(host="new.test"))
        self.assertEqual(self.host(), "new.test")

    def test_it_is_renewed_before_its_time_is_over_and_nobody_waits_for_that(self):
        self.standing()
        self.clock.advance(DAY / 2)
        self.page = Deferred()
        self.assertEqual((self.host(), len(self.asked)), ("mx.test", 2))
        self.assertEqual((self.host(), len(self.asked)), ("mx.test", 2))
        page, self.page = self.page, Page(200, "text/plain", policy(host="new.test"))
        page.callback(self.page)
        self.assertEqual(self.host(), "new.test")
        self.clock.advance(DAY / 2)
        self.assertEqual(self.host(), "new.test")

    def test_one_fetch_for_all_who_wait(self):
        self.page = Deferred()
        waiting = [Deferred.fromCoroutine(self.policies.standing("example.test")) for _ in range(5)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0])
        self.page.callback(Page(200, "text/plain", policy()))
        self.assertEqual({self.successResultOf(each).policy.hosts for each in waiting[1:]}, {("mx.test",)})
        self.assertEqual(len(self.asked), 1)

    def test_what_a_policy_host_may_do_wrong(self):
        for page, flaw in (
            (NoPage("refused"), TLSFailure.STS_POLICY_FETCH_ERROR),
            (NoPage("expired", is_certificate=True), TLSFailure.STS_WEBPKI_INVALID),
            (Page(301, "text/plain", policy()), TLSFailure.STS_POLICY_FETCH_ERROR),
            (Page(404, "text/html", b"no"), TLSFailure.STS_POLICY_FETCH_ERROR),
            (Page(200, "text/html", policy()), TLSFailure.STS_POLICY_INVALID),
            (Page(200, "", policy()), TLSFailure.STS_POLICY_INVALID),
            (Page(200, "text/plain", b"x" * 65_537), TLSFailure.STS_POLICY_INVALID),
            (Page(200, "text/plain", policy(mode="maybe")), TLSFailure.STS_POLICY_INVALID),
        ):
            self.policies, self.page = self.make(), page
            for _ in range(2):
                self.assertEqual((self.standing().policy, self.standing().flaw), (None, flaw))
        self.assertEqual((len(self.asked), self.kept), (8, {}))

    def test_a_policy_of_no_time_is_not_fetched_for_every_message(self):
        self.page = Page(200, "text/plain", policy(max_age=0))
        for _ in range(5):
            self.assertEqual(self.host(), "mx.test")
        self.assertEqual(len(self.asked), 1)

    def test_what_is_known_is_bounded(self):
        self.record("")
        for number in range(6_000):
            self.standing(f"{number}.test")
        self.assertEqual(len(self.policies._known), 5_000)

    def test_so_are_its_octets_and_what_does_not_fit_is_in_the_folder(self):
        self.patch(policies, "MAX_OCTETS", 1_048_576)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.kept = Disk(folder.name)
        domains = [f"{number}.test" for number in range(100)]
        self.record("\n".join(RECORD.replace("example.test", each) for each in domains))
        self.policies = self.make()
        gc.collect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for domain in domains:
            self.page = Page(200, "text/plain", longest(domain))
            self.assertEqual(len(self.standing(domain).policy.hosts), 200)
        self.running.clear()
        self.page = None
        gc.collect()
        octets, _ = tracemalloc.get_traced_memory()
        self.assertLess(octets, 2_500_000, "they would be 6 million")
        self.assertEqual(sum(each.octets for each in self.policies._known.values()), self.policies._octets)
        self.record("")
        for domain in domains:
            self.assertTrue(self.standing(domain).policy.matches(f"199.{'.'.join(['x' * 63] * 3)}.{domain}"), domain)
        self.assertEqual(len(self.asked), len(domains))

    def test_short_ones_all_fit(self):
        self.patch(policies, "MAX_KNOWN", policies.MAX_KNOWN // 10)
        self.patch(policies, "MAX_OCTETS", policies.MAX_OCTETS // 10)
        hosts = "\nmx: ".join(f"mx{number}.mail.example.test" for number in range(25))
        self.page = Page(200, "text/plain", policy(host=hosts))
        domains = [f"{number}.test" for number in range(policies.MAX_KNOWN)]
        self.record("\n".join(RECORD.replace("example.test", each) for each in domains))
        for domain in domains:
            self.assertEqual(len(self.standing(domain).policy.hosts), 25)
        self.assertEqual(list(self.policies._known), domains)

    def make_room_for_one(self):
        self.patch(policies, "MAX_KNOWN", 1)

    def push_out(self):
        """Have another domain asked for."""
        self.record("")
        self.assertEqual(self.standing("pushy.test"), Standing())
        self.assertEqual(list(self.policies._known), ["pushy.test"])
        self.record(RECORD)

    def test_one_that_is_pushed_out_while_it_is_renewed_is_not_forgotten_when_that_fails(self):
        self.make_room_for_one()
        self.standing()
        self.page = Deferred()
        self.clock.advance(DAY / 2)
        self.assertEqual(self.host(), "mx.test")
        self.push_out()
        self.page.callback(NoPage("refused"))
        self.record("")
        self.assertEqual(self.host(), "mx.test")

    def test_nor_one_that_another_has_read_anew_meanwhile(self):
        self.make_room_for_one()
        self.standing()
        self.page = Deferred()
        self.record(TWO.partition("\n")[2])
        waiting = Deferred.fromCoroutine(self.policies.standing("example.test"))
        self.push_out()
        self.kept.clear()
        self.record("")
        self.assertIsNone(self.host())
        self.page.callback(NoPage("refused"))
        self.assertEqual(self.successResultOf(waiting).policy.hosts, ("mx.test",))

    def test_who_waits_for_one_gets_it_though_it_is_pushed_out_before(self):
        self.make_room_for_one()
        self.page = Deferred()
        waiting = Deferred.fromCoroutine(self.policies.standing("example.test"))
        self.disk = Deferred()
        self.page.callback(Page(200, "text/plain", policy()))
        disk, self.disk = self.disk, None
        self.push_out()
        disk.callback(None)
        self.assertEqual(self.successResultOf(waiting).policy.hosts, ("mx.test",))

    def test_what_was_fetched_while_we_read_is_not_replaced_by_what_was_there_before(self):
        self.disk = Deferred()
        waiting = Deferred.fromCoroutine(self.policies.standing("example.test"))
        disk, self.disk = self.disk, None
        self.assertEqual(self.host(), "mx.test")
        self.record("")
        disk.callback(None)
        self.assertEqual(self.successResultOf(waiting).policy.hosts, ("mx.test",))
        self.assertEqual(self.host(), "mx.test")
