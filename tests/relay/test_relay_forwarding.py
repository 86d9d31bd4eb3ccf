"""What an alias leads abroad goes on under an address of ours; and nothing goes to ourselves."""

from __future__ import annotations

from dataclasses import replace

from relay_house import Host, World, delivery, relay_settings
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.address import Address
from mailstack.mail.disposition import Action
from mailstack.relay.settings import TLSPolicy, smarthost

ZONE = """
    example.test  MX 10 mx1.example.test
    example.test  MX 20 mx2.example.test
    example.test  MX 30 mx3.example.test
    mx1.example.test A 192.0.2.1
    mx2.example.test A 192.0.2.2
    mx3.example.test A 192.0.2.3
    smart.test A 192.0.2.9
"""
ALIAS = Address("team", "us.test")


async def rewritten(reverse_path: Address) -> Address:
    return Address(f"SRS0={reverse_path.local_part}", "us.test")


def forwarded(whole, *ordinals):
    recipients = {
        ordinal: replace(each, original=ALIAS) if ordinal in ordinals else each for ordinal, each in whole.recipients.items()
    }
    return replace(whole, recipients=recipients)


class Case(SynchronousTestCase):
    settings: dict = {}

    def setUp(self):
        self.world = World(ZONE, **self.settings)
        for number in (1, 2, 3, 9):
            self.world.at(f"192.0.2.{number}", Host)

    def outcome(self, value, **more):
        return self.successResultOf(self.world.attempt(value, self.world.make_courier(**more)))

    def said(self, verb):
        return [line for host in self.world.opened for line in host.lines if line.startswith(verb)]


class Forwarding(Case):
    def test_under_an_address_of_ours(self):
        (only,) = self.outcome(forwarded(delivery(), 0), return_path=rewritten)
        self.assertEqual(only.action, Action.RELAYED)
        self.assertEqual(self.said("MAIL"), ["MAIL FROM:<SRS0=alice@us.test> SIZE=22"])

    def test_what_is_not_forwarded_is_left_alone(self):
        self.outcome(delivery(), return_path=rewritten)
        self.assertEqual(self.said("MAIL"), ["MAIL FROM:<alice@us.test> SIZE=22"])

    def test_a_notification_has_no_sender_to_rewrite(self):
        self.outcome(forwarded(delivery(sender=None), 0), return_path=rewritten)
        self.assertEqual(self.said("MAIL"), ["MAIL FROM:<> SIZE=22"])

    def test_each_recipient_by_how_it_came_to_be_one(self):
        whole = forwarded(delivery("a@example.test", "b@example.test", "c@example.test"), 0, 4)
        outcome = self.outcome(whole, return_path=rewritten)
        self.assertEqual([(each.ordinal, each.action) for each in outcome], [(n, Action.RELAYED) for n in (0, 2, 4)])
        self.assertEqual(
            [line.partition(" SIZE")[0] for line in self.world.opened[0].lines if line[:4] in ("MAIL", "RCPT")],
            [
                "MAIL FROM:<SRS0=alice@us.test>",
                "RCPT TO:<a@example.test>",
                "RCPT TO:<c@example.test>",
                "MAIL FROM:<alice@us.test>",
                "RCPT TO:<b@example.test>",
            ],
        )
        self.assertEqual(len(self.world.opened), 1)

    def test_nothing_is_rewritten_unless_somebody_does(self):
        self.outcome(forwarded(delivery(), 0))
        self.assertEqual(self.said("MAIL"), ["MAIL FROM:<alice@us.test> SIZE=22"])

    def test_what_cannot_be_known_is_temporary(self):
        async def broken(reverse_path):
            raise RuntimeError("no directory")

        (only,) = self.outcome(forwarded(delivery(), 0), return_path=broken)
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual(only.action, Action.DELAYED)
        self.assertEqual(self.said("MAIL"), [])


class Loops(Case):
    def is_ours(self, *ours):
        return lambda address, port: (address, port) in [(each, 25) for each in ours]

    def test_a_domain_whose_host_is_ours(self):
        (only,) = self.outcome(delivery(), is_ourselves=self.is_ours("192.0.2.1"))
        self.assertEqual((only.action, str(only.status)), (Action.FAILED, "5.4.6"))
        self.assertEqual(only.diagnostic, "Mail for example.test loops back to this host")
        self.assertIn("mx1.example.test", only.cause)
        self.assertEqual(self.world.met, [])

    def test_an_address_literal_that_is_ours(self):
        (only,) = self.outcome(delivery(domain="[192.0.2.1]"), is_ourselves=self.is_ours("192.0.2.1"))
        self.assertEqual((only.action, str(only.status)), (Action.FAILED, "5.4.6"))

    def test_hosts_that_are_better_than_ours_are_tried_and_those_that_are_worse_are_not(self):
        del self.world.hosts["192.0.2.1"]
        (only,) = self.outcome(delivery(), is_ourselves=self.is_ours("192.0.2.2"))
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.4.1"), "the better one may come back")
        self.assertEqual(self.world.met, [("192.0.2.1", 25)])

    def test_a_better_host_gets_it(self):
        (only,) = self.outcome(delivery(), is_ourselves=self.is_ours("192.0.2.2"))
        self.assertEqual((only.action, only.remote_mta), (Action.RELAYED, "mx1.example.test"))

    def test_another_port_is_somebody_else(self):
        self.world.settings = relay_settings(port=2525)
        (only,) = self.outcome(delivery(), is_ourselves=self.is_ours("192.0.2.1"))
        self.assertEqual(only.action, Action.RELAYED)


class SmarthostLoops(Case):
    settings = {"smarthost": smarthost("smart.test", port=25, tls=TLSPolicy.MAY)}

    def test_a_mistake_of_the_operator_fails_nobody_s_mail(self):
        (only,) = self.outcome(delivery(), is_ourselves=lambda address, port: (address, port) == ("192.0.2.9", 25))
        self.assertEqual((only.action, str(only.status)), (Action.DELAYED, "4.4.6"))
        self.assertEqual(self.world.met, [])
