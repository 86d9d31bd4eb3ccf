"""Trust in the next hop, over real sockets and with real certificates."""

from __future__ import annotations

import ipaddress
import itertools
from dataclasses import replace
from pathlib import Path

from cryptography import x509
from relay_certificates import made, tlsa
from relay_house import HANG, Host, World, delivery
from test_relay_sockets import Case as SocketCase
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.answers import Empty, Exchange, Failed, Found, NoSuchDomain
from mailstack.mail.disposition import Action
from mailstack.mail.mta_sts import Mode, Policy, Standing
from mailstack.mail.requests import Requests
from mailstack.mail.tls_results import TLSFailure
from mailstack.net.tls import CertificateError, Pem, identity
from mailstack.relay.by_transport import next_hop_of
from mailstack.relay.settings import TIMEOUTS_SECONDS, IdleLimits, TLSPolicy, smarthost
from mailstack.relay.tls import TLSContexts
from mailstack.route.transport import parse_transport
from mailstack.testing.dns import FakeResolver
from mailstack.wire.smtp_mailing import Phase

ROOT = made("Root", is_authority=True)
BETWEEN = made("Between", ROOT, is_authority=True)
LEAF = made("mx.test", BETWEEN)
SELF = made("whoever.test", days=-1)  # no name that fits, and expired
CLEAR = b"250-mx\r\n250 SIZE 100\r\n"
OFFER = b"250-mx\r\n250 STARTTLS\r\n"
UNUSABLE = "1 1 1 " + "00" * 32


class Witness:
    def __init__(self):
        self.seen = []

    def session(self, applied, host, address="", own_address="", failure=None, why=""):
        self.seen.append((applied.kind, applied.domain, failure))


class Counted(SynchronousTestCase):
    def test_what_goes_in_clear_since_the_host_hung(self):
        world, witness = World("single.test A 192.0.2.1"), Witness()
        world.courier = world.make_courier(witness=witness)
        world.at("192.0.2.1", lambda: Host(EHLO=b"250-mx\r\n250 STARTTLS\r\n", STARTTLS=HANG))
        outcome = world.attempt(delivery(domain="single.test"))
        world.advance(TIMEOUTS_SECONDS[Phase.STARTTLS])
        self.successResultOf(outcome)
        self.assertEqual([failure for _, _, failure in witness.seen], [TLSFailure.VALIDATION_FAILURE])
        self.successResultOf(world.attempt(delivery(domain="single.test")))
        self.assertEqual(witness.seen, witness.seen[:1] * 2)


class Policies:
    """MTA-STS without the Web."""

    def __init__(self, standing):
        self.of_domain = standing
        self.asked = []

    async def standing(self, domain):
        self.asked.append(domain)
        return self.of_domain


class Changing:
    """A resolver that answers some questions once, and from then on with `then`."""

    def __init__(self, resolver, kinds, then):
        self.resolver, self.kinds, self.then = resolver, kinds, then
        self.asked = []

    def __getattr__(self, kind):
        async def ask(name):
            is_again = (kind, name) in self.asked
            self.asked.append((kind, name))
            return self.then if is_again and kind in self.kinds else await getattr(self.resolver, kind)(name)

        return ask


class Case(SocketCase):
    def relaying(
        self, served, *records, zone="", authority=None, policy=None, more=None, authenticated=True, level=TLSPolicy.DANE
    ):
        """Make a courier to the mail host mx.test of example.test, which has these TLSA records."""
        lines = ["example.test MX 10 mx.test", "mx.test A 127.0.0.1", *zone.split("\n")]
        lines += [f"_{served.number}._tcp.mx.test TLSA {each}" for each in records]
        self.resolver = FakeResolver("\n".join(lines), authenticated=authenticated)
        self.witness, self.policies = Witness(), Policies(policy or Standing())
        return self.courier(
            served,
            resolver=self.resolver,
            contexts=TLSContexts((authority or ROOT).trust),
            **({} if level is None else {"tls": level}),
            policies=self.policies,
            witness=self.witness,
            **(more or {}),
        )

    async def attempt(self, served, *records, delivering=None, **more):
        (only,) = await self.relaying(served, *records, **more).attempt(delivering or delivery())
        return only

    async def assert_relayed(self, shown, *records, tls, **more):
        served = self.serve(tls=shown)
        only = await self.attempt(served, *records, **more)
        self.assertEqual((only.action, len(served.contents)), (Action.RELAYED, 1), records)
        self.assertEqual(only.tls.split(" ", 2)[2], tls)
        return served

    async def assert_waits(self, served, *records, status="4.7.5", **more):
        only = await self.attempt(served, *records, **more)
        self.assertEqual((only.action, str(only.status), served.contents), (Action.DELAYED, status, []), records)
        return only


class DANE(Case):
    async def test_every_form_of_a_host_s_own_certificate(self):
        for certificate in (SELF, LEAF, made("x.test", rsa_key=True)):
            for selector, matching in itertools.product((0, 1), (0, 1, 2)):
                record = tlsa(certificate.certificate, 3, selector, matching)
                await self.assert_relayed(certificate.options(), record, tls="dane-ee")
                self.assertEqual(self.witness.seen, [("tlsa", "mx.test", None)])
        self.assertEqual(self.policies.asked, [], "DANE is enough")

    async def test_every_form_of_an_authority(self):
        for authority in (ROOT, BETWEEN):
            for selector, matching in itertools.product((0, 1), (0, 1, 2)):
                await self.assert_relayed(LEAF.options(), tlsa(authority.certificate, 2, selector, matching), tls="dane-ta")

    async def test_one_fits_of_several(self):
        other = made("mx.test")
        for record in (tlsa(SELF.certificate, 3, 1, 1), tlsa(ROOT.certificate, 2, 0, 1)):
            shown = SELF if record.startswith("3") else LEAF
            records = (tlsa(other.certificate, 3, 1, 1), UNUSABLE, tlsa(other.certificate, 2, 0, 1), record)
            await self.assert_relayed(shown.options(), *records, tls="dane-ee" if record.startswith("3") else "dane-ta")

    async def test_the_name_that_is_asked_for(self):
        shown = SELF.options()
        await self.assert_relayed(shown, tlsa(SELF.certificate, 3, 1, 1), tls="dane-ee")
        self.assertEqual(shown.seen, [b"mx.test"])

    async def test_an_authority_s_certificate_may_bear_the_domain(self):
        await self.assert_relayed(made("example.test", ROOT).options(), tlsa(ROOT.certificate, 2, 1, 1), tls="dane-ta")

    async def test_a_certificate_that_fits_no_record(self):
        for shown, record in (
            (SELF, tlsa(LEAF.certificate, 3, 1, 1)),
            (LEAF, tlsa(SELF.certificate, 2, 0, 1)),
            (LEAF, tlsa(LEAF.certificate, 2, 1, 1)),  # it is nobody's authority
            (SELF, tlsa(SELF.certificate, 2, 0, 1)),
        ):
            only = await self.assert_waits(self.serve(tls=shown.options()), record)
            self.assertIn("certificate-not-trusted", only.cause)
            self.assertRegex(only.tls, r"^TLSv1\.3 TLS_[A-Z0-9_]+ dane(-ta)?: certificate-not-trusted$")
            self.assertEqual(self.witness.seen, [("tlsa", "mx.test", TLSFailure.CERTIFICATE_NOT_TRUSTED)])

    async def test_nothing_is_said_to_a_host_with_a_wrong_certificate(self):
        served = self.serve({"EHLO": OFFER, "STARTTLS": b"220 go\r\n"}, tls=SELF.options())
        await self.assert_waits(served, tlsa(LEAF.certificate, 3, 1, 1))
        self.assertEqual(served.scripted[0].lines, ["EHLO us.test", "STARTTLS"])

    async def test_an_authority_of_another_name_or_time(self):
        for shown, failure in (
            (made("other.test", ROOT), TLSFailure.CERTIFICATE_HOST_MISMATCH),
            (made("mx.test", ROOT, days=-1), TLSFailure.CERTIFICATE_EXPIRED),
        ):
            await self.assert_waits(self.serve(tls=shown.options()), tlsa(ROOT.certificate, 2, 0, 1))
            self.assertEqual(self.witness.seen, [("tlsa", "mx.test", failure)])

    async def test_the_authority_is_not_among_what_is_sent(self):
        shown = LEAF.options(without=(BETWEEN.certificate, ROOT.certificate))
        await self.assert_waits(self.serve(tls=shown), tlsa(BETWEEN.certificate, 2, 1, 1))
        await self.assert_relayed(shown, tlsa(BETWEEN.certificate, 2, 0, 0), tls="dane-ta")  # the record holds all of it

    async def test_somebody_who_only_names_the_authority(self):
        forged = made("Root", is_authority=True)
        shown = made("mx.test", forged)
        with_root = made("mx.test", forged).options()
        with_root.getContext().add_extra_chain_cert(ROOT.certificate)
        for each in (shown.options(), with_root):
            await self.assert_waits(self.serve(tls=each), tlsa(ROOT.certificate, 2, 0, 1))

    async def test_no_starttls_or_none_that_works(self):
        record = tlsa(SELF.certificate, 3, 1, 1)
        served = self.serve({"EHLO": CLEAR}, {}, tls=SELF.options())
        await self.assert_waits(served, record, status="4.7.10")
        self.assertEqual(self.witness.seen, [("tlsa", "mx.test", TLSFailure.STARTTLS_NOT_SUPPORTED)])
        served = self.serve({"EHLO": OFFER, "STARTTLS": b"454 no\r\n"}, {}, tls=SELF.options())
        await self.assert_waits(served, record, status="4.3.0")
        served = self.serve({"EHLO": OFFER, "STARTTLS": b"220 go\r\n", "handshake": b"what?\r\n" * 20}, {}, tls=SELF.options())
        await self.assert_waits(served, record)

    async def test_no_usable_record_is_tls_with_any_certificate_and_never_clear(self):
        await self.assert_relayed(SELF.options(), UNUSABLE, tls="unverified")
        self.assertEqual(self.witness.seen, [("tlsa", "mx.test", TLSFailure.TLSA_INVALID)])
        await self.assert_waits(self.serve({"EHLO": CLEAR}, {}), UNUSABLE, status="4.7.10")

    async def test_records_that_nobody_can_have_put_a_host_off(self):
        served = self.serve(tls=SELF.options())
        await self.assert_waits(served, zone=f"_{served.number}._tcp.mx.test SERVFAIL", status="4.4.3")
        self.assertEqual(self.witness.seen, [("tlsa", "mx.test", TLSFailure.DNSSEC_INVALID)])
        self.assertEqual(served.peers, [])

    async def test_the_answers_by_which_a_host_was_found_are_those_that_judge_it(self):
        """With a TTL of 0, or MX that rotate, it would else be nobody's host, or one that is not signed: `may`."""
        for kinds, then in (
            (("mx",), Found((Exchange(10, "other.test"),), True, "example.test")),
            (("mx",), NoSuchDomain()),
            (("ipv4",), Found(("127.0.0.1",), False, "mx.test")),
            (("ipv4",), Empty()),
            (("mx", "ipv4", "ipv6"), Failed("gone")),
        ):
            served = self.serve({"EHLO": CLEAR}, {})
            courier = self.relaying(served, tlsa(SELF.certificate, 3, 1, 1))
            changing = courier._trust._resolver = courier._next_hops._resolver = Changing(self.resolver, kinds, then)
            (only,) = await courier.attempt(delivery())
            self.assertEqual((only.action, str(only.status), served.contents), (Action.DELAYED, "4.7.10", []), kinds)
            self.assertEqual(len(set(changing.asked)), len(changing.asked), "nothing is asked twice for a message")

    async def test_an_alias_of_which_nobody_can_say_where_it_leads_puts_a_host_off(self):
        served = self.serve(tls=SELF.options())
        zone = "real.test INSECURE\nreal.test A 127.0.0.1\nalias.test CNAME real.test\nother.test MX 10 alias.test"
        courier = self.relaying(served, zone=zone)
        changing = courier._trust._resolver = Changing(self.resolver, ("alias",), Failed("gone"))
        changing.asked.append(("alias", "alias.test"))
        (only,) = await courier.attempt(delivery(domain="other.test"))
        self.assertEqual((only.action, str(only.status), served.peers), (Action.DELAYED, "4.4.3", []))

    async def test_the_next_host_is_tried(self):
        served = self.serve(tls=SELF.options())
        zone = f"example.test MX 5 bad.test\nbad.test A 127.0.0.1\n_{served.number}._tcp.bad.test SERVFAIL"
        only = await self.attempt(served, tlsa(SELF.certificate, 3, 1, 1), zone=zone)
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "mx.test"))

    async def test_what_is_not_signed_is_as_if_it_were_not_there(self):
        wrong = tlsa(LEAF.certificate, 3, 1, 1)
        for more in ({"authenticated": False}, {"zone": "mx.test INSECURE"}, {"zone": "example.test INSECURE"}):
            await self.assert_relayed(SELF.options(), wrong, tls="unverified", **more)
            self.assertEqual(self.witness.seen, [("no-policy-found", "example.test", None)])
            self.assertEqual([kind for _, kind in self.resolver.asked if kind == "TLSA"], [], more)

    async def test_a_host_that_is_an_alias(self):
        for zone, place, base in (
            ("real.test A 127.0.0.1", "real.test", "real.test"),
            ("real.test A 127.0.0.1", "alias.test", "alias.test"),
            ("real.test A 127.0.0.1\nreal.test INSECURE", "alias.test", "alias.test"),
        ):
            served = self.serve(tls=(shown := SELF.options()))
            zone += "\nother.test MX 10 alias.test\nalias.test CNAME real.test\n"
            record = f"_{served.number}._tcp.{place} TLSA {tlsa(SELF.certificate, 3, 1, 1)}"
            only = await self.attempt(served, zone=zone + record, delivering=delivery(domain="other.test"))
            self.assertEqual((only.action, only.tls.split()[-1]), (Action.RELAYED, "dane-ee"), zone)
            self.assertEqual(shown.seen, [base.encode()])

    async def test_a_domain_without_mx_is_its_own_host(self):
        served = self.serve(tls=LEAF.options())
        for record, action in (
            (tlsa(LEAF.certificate, 3, 1, 1), Action.RELAYED),
            (tlsa(SELF.certificate, 3, 1, 1), Action.DELAYED),
        ):
            only = await self.attempt(served, record, delivering=delivery(domain="mx.test"))
            self.assertIs(only.action, action)

    async def test_the_levels_that_are_set_count_more(self):
        wrong = tlsa(LEAF.certificate, 3, 1, 1)
        for level in (TLSPolicy.MAY, TLSPolicy.ENCRYPT):
            await self.assert_relayed(SELF.options(), wrong, tls="unverified", more={"tls_levels": {"example.test": level}})
        served = self.serve(tls=SELF.options())
        only = await self.attempt(served, wrong, more={"tls_levels": {".test": TLSPolicy.NONE}})
        self.assertEqual((only.action, only.tls), (Action.RELAYED, "none"))
        more = {"tls_levels": {"*": TLSPolicy.VERIFY}}
        await self.assert_waits(self.serve(tls=SELF.options()), tlsa(SELF.certificate, 3, 1, 1), more=more)
        await self.assert_relayed(LEAF.options(), wrong, tls="verified", more=more)

    async def test_a_smarthost(self):
        for record, action in (
            (tlsa(SELF.certificate, 3, 1, 1), Action.RELAYED),
            (tlsa(LEAF.certificate, 3, 1, 1), Action.DELAYED),
        ):
            served = self.serve(tls=SELF.options())
            only = await self.attempt(served, record, more=self.smarthost(served, TLSPolicy.DANE), level=None)
            self.assertIs(only.action, action)

    async def test_a_smarthost_that_is_not_in_the_dns(self):
        for host in ("localhost", "127.0.0.1"):
            served = self.serve(tls=SELF.options())
            only = await self.attempt(
                served, more={"smarthost": smarthost(host, served.number, tls=TLSPolicy.DANE)}, level=None
            )
            self.assertEqual((only.action, self.resolver.asked), (Action.RELAYED, []), host)

    async def test_an_address_in_the_place_of_a_domain(self):
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        for shown, action in ((made("x.test", ROOT, name=address), Action.RELAYED), (LEAF, Action.DELAYED)):
            served = self.serve(tls=shown.options())
            more = {"tls_levels": {"*": TLSPolicy.VERIFY}}
            only = await self.attempt(served, more=more, delivering=delivery(domain="[127.0.0.1]"))
            self.assertIs(only.action, action)
        only = await self.attempt(self.serve(tls=SELF.options()), delivering=delivery(domain="[127.0.0.1]"))
        self.assertEqual((only.action, self.resolver.asked), (Action.RELAYED, []))


class MTASTS(Case):
    def policy(self, mode, *hosts):
        return Standing(Policy(mode, hosts or ("mx.test",), 86_400))

    async def test_enforced(self):
        await self.assert_relayed(LEAF.options(), policy=self.policy(Mode.ENFORCE), tls="verified", authenticated=False)
        self.assertEqual(self.witness.seen, [("sts", "example.test", None)])
        self.assertEqual(self.policies.asked, ["example.test"])

    async def test_enforced_with_a_certificate_that_is_not_right(self):
        for shown, failure in (
            (SELF, {TLSFailure.CERTIFICATE_NOT_TRUSTED}),
            (made("example.test", ROOT), {TLSFailure.CERTIFICATE_HOST_MISMATCH}),
            (made("mx.test", ROOT, days=-1), {TLSFailure.CERTIFICATE_EXPIRED}),
        ):
            await self.assert_waits(self.serve(tls=shown.options()), policy=self.policy(Mode.ENFORCE), authenticated=False)
            self.assertEqual({found for _, _, found in self.witness.seen}, failure)

    async def test_enforced_is_never_clear(self):
        served = self.serve({"EHLO": CLEAR}, {})
        await self.assert_waits(served, policy=self.policy(Mode.ENFORCE), authenticated=False, status="4.7.10")
        self.assertEqual(self.witness.seen, [("sts", "example.test", TLSFailure.STARTTLS_NOT_SUPPORTED)])

    async def test_hosts_that_the_policy_does_not_name_are_passed_over(self):
        served = self.serve(tls=LEAF.options())
        policy = self.policy(Mode.ENFORCE, "mx.test")
        zone = "example.test MX 5 evil.test\nevil.test A 127.0.0.1"
        only = await self.attempt(served, policy=policy, zone=zone, authenticated=False)
        self.assertEqual((only.action, only.remote_mta, len(served.peers)), (Action.RELAYED, "mx.test", 1))
        self.assertEqual(
            self.witness.seen, [("sts", "example.test", TLSFailure.VALIDATION_FAILURE), ("sts", "example.test", None)]
        )
        served = self.serve(tls=LEAF.options())
        await self.assert_waits(served, policy=self.policy(Mode.ENFORCE, "*.mx.test"), authenticated=False, status="4.7.0")
        self.assertEqual(served.peers, [])

    async def test_one_address_may_be_right_by_another_of_its_names(self):
        served = self.serve(tls=LEAF.options())
        policy = self.policy(Mode.ENFORCE, "mx.test", "other.test")
        zone = "example.test MX 5 other.test\nother.test A 127.0.0.1"
        only = await self.attempt(served, policy=policy, zone=zone, authenticated=False)
        self.assertEqual((only.action, only.remote_mta, len(served.peers)), (Action.RELAYED, "mx.test", 2))

    async def test_testing_delivers_whatever_is_wrong_and_reports_it(self):
        policy = self.policy(Mode.TESTING)
        served = self.serve(tls=SELF.options())
        only = await self.attempt(served, policy=policy, authenticated=False)
        self.assertEqual((only.action, only.tls.split(" ", 2)[2]), (Action.RELAYED, "verified: certificate-not-trusted"))
        self.assertEqual(self.witness.seen, [("sts", "example.test", TLSFailure.CERTIFICATE_NOT_TRUSTED)])
        only = await self.attempt(self.serve({"EHLO": CLEAR}), policy=policy, authenticated=False)
        self.assertEqual((only.action, only.tls), (Action.RELAYED, "none"))
        self.assertEqual(self.witness.seen, [("sts", "example.test", TLSFailure.STARTTLS_NOT_SUPPORTED)])
        await self.assert_relayed(
            LEAF.options(), policy=self.policy(Mode.TESTING, "a.test"), tls="verified", authenticated=False
        )
        self.assertEqual(self.witness.seen, [("sts", "example.test", TLSFailure.VALIDATION_FAILURE)])

    async def test_a_report_about_it_goes_whatever_is_wrong(self):
        asked = delivery(requests=Requests(tls_optional=True))
        for records, policy in (((), self.policy(Mode.ENFORCE, "a.test")), ((tlsa(LEAF.certificate, 3, 1, 1),), None)):
            await self.assert_relayed(SELF.options(), *records, policy=policy, delivering=asked, tls="unverified")
            only = await self.attempt(self.serve({"EHLO": CLEAR}), *records, policy=policy, delivering=asked)
            self.assertIs(only.action, Action.RELAYED)
            self.assertEqual({domain for _, domain, _ in self.witness.seen}, {""})
        more = {"tls_levels": {"*": TLSPolicy.VERIFY}}
        await self.assert_waits(self.serve(tls=SELF.options()), delivering=asked, more=more)

    async def test_dane_is_asked_first_and_a_wrong_certificate_not_mended_by_a_policy(self):
        policy = self.policy(Mode.ENFORCE)
        await self.assert_waits(self.serve(tls=LEAF.options()), tlsa(SELF.certificate, 3, 1, 1), policy=policy)
        await self.assert_relayed(SELF.options(), tlsa(SELF.certificate, 3, 1, 1), policy=policy, tls="dane-ee")
        await self.assert_relayed(LEAF.options(), policy=policy, tls="verified")


class RequireTLS(Case):
    ASKED = {"requests": Requests(requires_tls=True)}

    async def result(self, shown, *records, **more):
        script = {"EHLO": OFFER.replace(b"250 ", b"250-") + b"250 REQUIRETLS\r\n", "STARTTLS": b"220 go\r\n"}
        return await self.attempt(self.serve(script, tls=shown), *records, delivering=delivery(**self.ASKED), **more)

    async def test_by_dane_and_by_an_enforced_policy(self):
        only = await self.result(SELF.options(), tlsa(SELF.certificate, 3, 1, 1))
        self.assertIs(only.action, Action.RELAYED)
        policy = Standing(Policy(Mode.ENFORCE, ("mx.test",), 86_400))
        only = await self.result(LEAF.options(), policy=policy, authenticated=False)
        self.assertIs(only.action, Action.RELAYED)

    async def test_by_nothing_else(self):
        testing = Standing(Policy(Mode.TESTING, ("mx.test",), 86_400))
        for records, more in (
            ((), {}),
            ((UNUSABLE,), {}),
            ((), {"policy": testing}),
            ((), {"authenticated": False, "more": {"tls_levels": {"*": TLSPolicy.VERIFY}}}),
        ):
            only = await self.result(LEAF.options(), *records, **more)
            status = "4.7.30" if records else "5.7.30"
            self.assertEqual((only.action.is_final, str(only.status)), (not records, status), more)

    async def test_a_policy_that_could_not_be_had_may_come(self):
        for standing in (Standing(None, TLSFailure.STS_POLICY_FETCH_ERROR), Standing(is_unknown=True)):
            only = await self.result(LEAF.options(), policy=standing, authenticated=False)
            self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.7.30"))

    async def test_verified_where_the_name_of_the_host_is_vouched_for(self):
        only = await self.result(LEAF.options(), more={"tls_levels": {"*": TLSPolicy.VERIFY}})
        self.assertIs(only.action, Action.RELAYED)


class Named(Case):
    """Hosts that the operator has named: as a smarthost, in the map, or for one message."""

    async def via(self, served, text, *records, domain="bank.test", levels=None, delivering=None, **more):
        levels = {"bank.test": TLSPolicy.VERIFY} if levels is None else levels
        courier = self.relaying(served, *records, more={"tls_levels": levels, **more}, zone="gate.test MX 10 mx.test")
        next_hop = replace(next_hop_of(parse_transport(text), courier._settings), allow_private=True) if text else None
        delivering = delivering or delivery(f"bob@{domain}", domain=domain)
        (only,) = await courier.attempt(delivering, next_hop)
        return only

    WAYS = ("smtp:[mx.test]:25", "smtp:[127.0.0.1]:25", "smtp:gate.test", "lmtp:127.0.0.1:24")

    async def test_what_is_set_for_the_domain_of_the_recipients_holds_there(self):
        for text in self.WAYS:
            served = self.serve({"EHLO": CLEAR, "LHLO": CLEAR}, {})
            only = await self.via(served, text)
            self.assertEqual((only.action, str(only.status), served.contents), (Action.DELAYED, "4.7.10", []), text)
        served = self.serve({"EHLO": CLEAR}, {})
        only = await self.via(served, None, **self.smarthost(served, TLSPolicy.MAY))
        self.assertEqual((only.action, str(only.status), served.contents), (Action.DELAYED, "4.7.10", []))

    async def test_and_is_not_asked_for_others(self):
        for text in self.WAYS[:-1]:
            only = await self.via(self.serve({"EHLO": CLEAR}), text, domain="example.test")
            self.assertEqual((only.action, only.tls), (Action.RELAYED, "none"), text)

    async def test_the_certificate_must_be_that_of_the_host(self):
        for shown, action in ((LEAF, Action.RELAYED), (SELF, Action.DELAYED), (made("bank.test", ROOT), Action.DELAYED)):
            only = await self.via(self.serve(tls=shown.options()), "smtp:[mx.test]")
            self.assertIs(only.action, action)

    async def test_a_host_has_a_level_of_its_own(self):
        for text, name in (("smtp:[mx.test]", "mx.test"), ("smtp:gate.test", "gate.test"), ("smtp:[127.0.0.1]", "127.0.0.1")):
            served = self.serve({"EHLO": CLEAR}, {})
            only = await self.via(served, text, domain="example.test", levels={name: TLSPolicy.ENCRYPT})
            self.assertEqual((only.action, str(only.status), served.contents), (Action.DELAYED, "4.7.10", []), text)
        served = self.serve({"EHLO": CLEAR}, {})
        more = self.smarthost(served, TLSPolicy.MAY)
        only = await self.via(served, None, domain="example.test", levels={"mx.test": TLSPolicy.ENCRYPT}, **more)
        self.assertEqual((only.action, str(only.status), served.contents), (Action.DELAYED, "4.7.10", []))

    async def test_one_of_the_other_kind_that_asks_less_does_not_matter(self):
        served = self.serve({"EHLO": CLEAR}, {})
        only = await self.via(served, "smtp:[mx.test]", levels={"bank.test": TLSPolicy.NONE, "mx.test": TLSPolicy.ENCRYPT})
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.7.10"))

    async def test_what_is_set_for_all_is_not_for_this_machine(self):
        levels = {"*": TLSPolicy.VERIFY}
        only = await self.via(self.serve({"EHLO": CLEAR}), "smtp:[127.0.0.1]", levels=levels)
        self.assertEqual((only.action, only.tls), (Action.RELAYED, "none"))
        only = await self.via(self.serve({"EHLO": CLEAR}, {}), "smtp:[mx.test]", levels=levels)
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.7.10"))

    async def test_a_report_about_it_goes_whatever_it_publishes_and_not_against_what_is_set(self):
        wrong = tlsa(LEAF.certificate, 3, 1, 1)
        for host, level, is_optional in itertools.product(
            ("[mx.test]", "gate.test"), (TLSPolicy.DANE, TLSPolicy.VERIFY), (False, True)
        ):
            served = self.serve({"EHLO": CLEAR}, {})
            asked = delivery(requests=Requests(tls_optional=is_optional))
            levels = {"*": TLSPolicy.DANE, "example.test": level}
            only = await self.via(served, f"smtp:{host}:{served.number}", wrong, levels=levels, delivering=asked)
            goes = is_optional and level is TLSPolicy.DANE
            self.assertIs(only.action, Action.RELAYED if goes else Action.DELAYED, (host, levels, is_optional))


class OurCertificate(Case):
    async def test_a_host_that_asks_for_it_gets_it(self):
        ours = made("us.test", BETWEEN)
        contexts = TLSContexts(ROOT.trust, identity(Path("c"), Path("k"), ours.pem))
        for level in (TLSPolicy.ENCRYPT, TLSPolicy.VERIFY):
            served = self.serve(tls=LEAF.options(trustRoot=ROOT.trust))
            resolver = FakeResolver("example.test MX 10 mx.test\nmx.test A 127.0.0.1")
            (only,) = await self.courier(served, resolver=resolver, contexts=contexts, tls=level).attempt(delivery())
            self.assertIs(only.action, Action.RELAYED)
            without = self.courier(served, resolver=resolver, contexts=TLSContexts(ROOT.trust), tls=level)
            (only,) = await without.attempt(delivery())
            self.assertEqual((only.action, len(served.contents)), (Action.DELAYED, 1))

    def test_what_is_no_pair(self):
        one, other = made("a.test").pem, made("b.test").pem
        for pem in (Pem(one.certificate, other.key), Pem(b"x", one.key), Pem(one.certificate, b"x")):
            self.assertRaises(CertificateError, identity, Path("c"), Path("k"), pem)


class Log(Case):
    async def test_what_was_used(self):
        served = self.serve(tls=SELF.options())
        only = await self.attempt(served, tlsa(SELF.certificate, 3, 1, 1))
        self.assertRegex(only.tls, r"^TLSv1\.3 TLS_[A-Z0-9_]+ dane-ee$")

    async def test_one_session_serves_two_domains_that_ask_the_same(self):
        served = self.serve(tls=SELF.options())
        zone = "other.test MX 10 mx.test"
        courier = self.relaying(served, zone=zone, authenticated=False, more={"idle": IdleLimits()})
        for domain in ("example.test", "other.test"):
            await courier.attempt(delivery(domain=domain))
        await courier.close()
        self.assertEqual((len(served.contents), len(served.peers)), (2, 1))
        self.assertEqual(self.witness.seen, [("no-policy-found", "example.test", None)])

    async def test_not_one_that_must_have_been_verified(self):
        served = self.serve(tls=LEAF.options())
        zone = "other.test MX 10 mx.test"
        more = {"idle": IdleLimits(), "tls_levels": {"other.test": TLSPolicy.VERIFY}}
        courier = self.relaying(served, zone=zone, authenticated=False, more=more)
        for domain in ("example.test", "other.test"):
            await courier.attempt(delivery(domain=domain))
        await courier.close()
        self.assertEqual((len(served.contents), len(served.peers)), (2, 2))
