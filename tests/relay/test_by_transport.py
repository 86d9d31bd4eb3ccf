"""Each recipient goes its way, whatever became of the others, and all have a disposition."""

from __future__ import annotations

from dataclasses import replace

import pytest
from relay_house import delivery
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.address import parse_address
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Account, Recipient, Remote
from mailstack.mail.requests import DeliverBy, Requests
from mailstack.mail.status import EnhancedStatus
from mailstack.relay.attempt import BrokenOffError
from mailstack.relay.by_transport import TransportCourier, next_hop_of
from mailstack.relay.settings import HostLogin, NextHop, RelaySettings, TLSPolicy, smarthost
from mailstack.route.transport import TransportMap, parse_pattern, parse_transport
from mailstack.wire.smtp_mailing import Login

LOGIN = HostLogin(Login("us", "secret"), TLSPolicy.ENCRYPT)
SETTINGS = RelaySettings(
    next_hop=smarthost("smart.test"), direct=NextHop(port=2525, tls=TLSPolicy.VERIFY), logins={"login.test": LOGIN}
)
MAP = {
    "lmtp.test": "lmtp:unix:/run/lmtp",
    "other.test": "lmtp:unix:/run/lmtp",
    "host.test": "smtp:[192.0.2.9]:2525",
    "direct.test": "mx",
    "via.test": "smtp:gate.test",
    "hold.test": "hold",
    "void.test": "discard",
    "closed.test": "error: 5.1.6 Moved",
    "moving.test": "error: 4.3.2 Moving",
    "kept@lmtp.test": "local",
}


class Courier:
    """Says what it was given, and that it is done."""

    def __init__(self, action, log):
        self.action = action
        self.log = log
        self.deliveries = []
        self.waits = None

    async def attempt(self, delivery, next_hop=None):
        self.deliveries.append(delivery)
        addresses = [str(each.address) for each in delivery.recipients.values()]
        self.log.append((self.action.value, addresses, next_hop and (next_hop.host or next_hop.domain or "mx")))
        if self.waits is not None:
            await self.waits
        status = EnhancedStatus(2, 0, 0)
        return [Disposition(ordinal=each, action=self.action, status=status, diagnostic="ok") for each in delivery.recipients]

    def head(self, reverse_path, recipient):
        return f"{reverse_path} {recipient.address}".encode()


def recipient(text, *, is_account=False, via=None):
    address = parse_address(text)
    destination = Account(text) if is_account else Remote(address.domain)
    return Recipient(address=address, original=address, destination=destination, via=via)


def account(text, **more):
    return recipient(text, is_account=True, **more)


class Case(SynchronousTestCase):
    def setUp(self):
        self.log = []
        self.local, self.relay = Courier(Action.DELIVERED, self.log), Courier(Action.RELAYED, self.log)
        entries = {parse_pattern(name): parse_transport(text) for name, text in MAP.items()}
        self.courier = TransportCourier(self.local, self.relay, SETTINGS, TransportMap(entries))

    def begin(self, *recipients, **more):
        own = {name: more.pop(name) for name in ("attempt", "released") if name in more}
        made = replace(delivery(**more), **own)
        envelope = replace(made.envelope, recipients=recipients)
        made = replace(made, envelope=envelope, recipients={2 * n: each for n, each in enumerate(recipients)})
        return Deferred.fromCoroutine(self.courier.attempt(made))

    def attempt(self, *recipients, **more):
        found = sorted(self.successResultOf(self.begin(*recipients, **more)), key=lambda each: each.ordinal)
        self.assertEqual([each.ordinal for each in found], [2 * n for n in range(len(recipients))])
        return [(each.action.value, str(each.status)) for each in found]


class Ways(Case):
    def test_without_an_entry_the_destination_decides(self):
        self.assertEqual(self.attempt(account("a@us.test"), account("b@us.test")), [("delivered", "2.0.0")] * 2)
        self.assertEqual(self.attempt(recipient("a@free.test")), [("relayed", "2.0.0")])
        self.assertEqual(self.log, [("delivered", ["a@us.test", "b@us.test"], None), ("relayed", ["a@free.test"], None)])

    def test_are_named_where_the_destination_does_not_say_it(self):
        smart = "smtp:[smart.test]:587"
        for found, way in (
            (account("a@us.test"), None),
            (account("kept@lmtp.test"), None),
            (account("a@lmtp.test"), "lmtp:unix:/run/lmtp"),
            (account("a@direct.test"), "mx"),
            (account("a@void.test"), None),
            (recipient("a@direct.test"), None),
            (recipient("a@host.test"), "smtp:[192.0.2.9]:2525"),
            (recipient("a@via.test"), "smtp:gate.test"),
            (recipient("a@hold.test"), None),
            (recipient("a@free.test"), smart),
        ):
            self.assertEqual(self.courier.way_of(found), way, str(found.address))
        self.courier.transports = TransportMap()
        self.assertEqual(self.courier.way_of(recipient("a@direct.test")), smart)
        self.courier.settings = RelaySettings()
        self.assertIsNone(self.courier.way_of(recipient("a@direct.test")))

    def test_an_account_may_be_elsewhere(self):
        self.attempt(account("a@lmtp.test"))
        self.assertEqual(self.log, [("relayed", ["a@lmtp.test"], "/run/lmtp")])
        (only,) = self.relay.deliveries[0].recipients.values()
        self.assertEqual(only.destination, Account("a@lmtp.test"), "and is still one")

    def test_an_account_may_be_at_the_mx_of_its_domain(self):
        self.attempt(account("a@direct.test"), account("b@us.test", via="mx"), recipient("c@direct.test"))
        self.assertEqual(
            self.log,
            [("relayed", ["a@direct.test", "c@direct.test"], "direct.test"), ("relayed", ["b@us.test"], "us.test")],
        )

    def test_all_of_a_host_go_together(self):
        self.attempt(account("a@lmtp.test"), account("b@other.test"), account("c@us.test"), account("kept+x@lmtp.test"))
        self.assertEqual(
            self.log,
            [("delivered", ["c@us.test", "kept+x@lmtp.test"], None), ("relayed", ["a@lmtp.test", "b@other.test"], "/run/lmtp")],
        )

    def test_those_of_each_domain_go_by_its_mx(self):
        entries = {"*": parse_transport("mx"), "b.test": parse_transport("smtp:gate.test")}
        self.courier.transports = TransportMap(entries)
        self.attempt(recipient("1@a.test"), recipient("2@b.test"), recipient("3@c.test"), recipient("4@a.test"))
        self.assertEqual(
            self.log,
            [
                ("relayed", ["1@a.test", "4@a.test"], "mx"),
                ("relayed", ["2@b.test"], "gate.test"),
                ("relayed", ["3@c.test"], "mx"),
            ],
        )

    def test_those_of_a_domain_with_a_level_of_its_own_go_apart(self):
        """What cannot be had for one of them keeps only its own mail waiting."""
        self.courier.settings = replace(SETTINGS, tls_levels={".bank.test": TLSPolicy.VERIFY, "*": TLSPolicy.ENCRYPT})
        entries = {name: parse_transport("smtp:[192.0.2.9]") for name in ("a.test", "b.test", ".bank.test")}
        self.courier.transports = TransportMap(entries)
        self.attempt(*(account(f"{n}@{domain}") for n, domain in enumerate(("a.test", "x.bank.test", "b.test", "x.bank.test"))))
        together, apart = ["0@a.test", "2@b.test"], ["1@x.bank.test", "3@x.bank.test"]
        self.assertEqual(self.log, [("relayed", each, "192.0.2.9") for each in (together, apart)])

    def test_nothing_is_tried_of_what_is_decided_here(self):
        texts = ("x@hold.test", "x@void.test", "x@closed.test", "x@moving.test")
        outcomes = [("delayed", "4.7.0"), ("discarded", "2.0.0"), ("failed", "5.1.6"), ("delayed", "4.3.2")]
        self.assertEqual(self.attempt(*map(recipient, texts)), outcomes)
        self.assertEqual(self.attempt(*map(account, texts)), outcomes)
        self.assertEqual(self.log, [])

    def test_what_is_held_says_so(self):
        held, free = self.successResultOf(self.begin(recipient("x@hold.test"), recipient("x@free.test")))
        self.assertEqual((held.is_held, free.is_held), (True, False))
        self.assertEqual(held.diagnostic, "Held by the operator's transport map")

    def test_who_has_waited_before_is_held_too_and_goes_only_when_he_was_released(self):
        for made in (recipient, account):
            self.assertEqual(self.attempt(made("a@hold.test"), attempt=2), [("delayed", "4.7.0")])
            self.assertEqual(self.log, [])
            went = "delivered" if made is account else "relayed"
            found = self.attempt(made("a@hold.test"), made("b@hold.test"), attempt=3, released=frozenset([2]))
            self.assertEqual(found, [("delayed", "4.7.0"), (went, "2.0.0")])
            self.assertEqual([each[:2] for each in self.log], [(went, ["b@hold.test"])])
            self.log.clear()

    def test_who_was_released_and_has_no_other_way_is_held_again(self):
        for said_by, held in ((None, True), ("mx.hold.test", False)):

            async def fails(delivery, next_hop=None, said_by=said_by):
                failed = Disposition(
                    ordinal=0, action=Action.FAILED, status=EnhancedStatus(5, 4, 6), diagnostic="It loops", remote_mta=said_by
                )
                return [failed]

            self.patch(self.relay, "attempt", fails)
            (only,) = self.successResultOf(self.begin(recipient("a@hold.test"), attempt=2, released=frozenset([0])))
            self.assertEqual((only.is_held, only.action), (held, Action.DELAYED if held else Action.FAILED))
            self.assertIn("It loops", only.diagnostic)

    def test_local_without_an_account_waits_for_the_operator(self):
        self.assertEqual(self.attempt(recipient("kept@lmtp.test")), [("delayed", "4.3.5")])

    def test_what_the_operator_said_of_one_message_wins(self):
        self.attempt(
            account("a@lmtp.test", via="local"),
            account("b@us.test", via="smtp:[192.0.2.7]:2525"),
            recipient("c@closed.test", via="smtp:[192.0.2.7]:2525"),
        )
        self.assertEqual(
            self.log, [("delivered", ["a@lmtp.test"], None), ("relayed", ["b@us.test", "c@closed.test"], "192.0.2.7")]
        )
        self.assertEqual(self.attempt(account("a@us.test", via="nonsense")), [("delayed", "4.3.5")])

    def test_a_changed_map_counts_for_what_waits(self):
        self.assertEqual(self.attempt(recipient("x@closed.test")), [("failed", "5.1.6")])
        self.courier.transports = TransportMap()
        self.assertEqual(self.attempt(recipient("x@closed.test")), [("relayed", "2.0.0")])


class BrokenOff(Case):
    def test_what_nobody_expects_is_delayed_and_does_not_touch_the_others(self):
        def broken(*more):
            raise RuntimeError("a bug")

        self.relay.attempt = broken
        outcomes = self.attempt(recipient("x@free.test"), account("a@us.test"), recipient("x@closed.test"))
        self.assertEqual(sorted(outcomes), [("delayed", "4.3.0"), ("delivered", "2.0.0"), ("failed", "5.1.6")])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_what_was_found_out_before_stands(self):
        self.relay.waits = Deferred()
        running = self.begin(account("a@us.test"), recipient("x@free.test"))
        self.assertNoResult(running)
        running.cancel()
        found = self.successResultOf(running)
        self.assertEqual([each.action for each in found], [Action.DELIVERED, Action.DELAYED])

    def test_and_what_it_had_come_to_itself(self):
        relayed = Disposition(ordinal=0, action=Action.RELAYED, status=EnhancedStatus(2, 0, 0), diagnostic="250 ok")
        self.relay.waits = Deferred()
        running = self.begin(recipient("x@free.test"), recipient("x@lmtp.test"))
        self.relay.waits.errback(BrokenOffError([relayed]))
        found = self.successResultOf(running)
        self.assertEqual([each.action for each in found], [Action.RELAYED, Action.DELAYED])
        self.assertEqual([name for name, *_ in self.log], ["relayed"], "the next is not begun")

    def test_also_on_the_usual_way(self):
        self.courier = TransportCourier(self.local, self.relay, SETTINGS)
        relayed = Disposition(ordinal=0, action=Action.RELAYED, status=EnhancedStatus(2, 0, 0), diagnostic="250 ok")
        self.relay.waits = Deferred()
        running = self.begin(recipient("a@free.test"), recipient("b@free.test"))
        self.relay.waits.errback(BrokenOffError([relayed, replace(relayed, ordinal=2, action=Action.DELAYED)]))
        found = self.successResultOf(running)
        self.assertEqual([each.action for each in found], [Action.RELAYED, Action.DELAYED])

    def test_else_it_is_cancelled(self):
        self.relay.waits = Deferred()
        running = self.begin(recipient("x@free.test"), recipient("x@host.test"))
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(len(self.log), 1)


class Straight(Case):
    """What may be delivered before the 250."""

    def test_maildirs_only(self):
        for made, is_taken in (
            (account("a@us.test"), True),
            (account("kept@lmtp.test"), True),
            (account("a@lmtp.test"), False),
            (account("a@void.test"), False),
            (recipient("a@free.test"), False),
            (recipient("kept@lmtp.test"), False),
        ):
            self.assertIs(self.courier.takes(made), is_taken, made)

    def test_all_or_none(self):
        running = self.begin(account("a@us.test"), account("a@lmtp.test"))
        self.assertEqual(len(self.successResultOf(running)), 2)
        self.log.clear()
        for recipients in ({0: account("a@us.test"), 1: account("a@lmtp.test")}, {0: account("a@lmtp.test")}):
            made = replace(delivery(), all_or_none=True, recipients=recipients)
            self.assertEqual(self.successResultOf(Deferred.fromCoroutine(self.courier.attempt(made))), [])
        self.assertEqual(self.log, [])

    def test_the_head_is_the_maildirs(self):
        self.assertEqual(self.courier.head(None, account("a@us.test")), b"None a@us.test")


class FinalDelivery(Case):
    """The next program delivers: what was asked of the way there is ours to have kept."""

    ASKED = Requests(requires_tls=True, deliver_by=DeliverBy(1e9, returns=True), envelope_id="x")

    def requests_at(self, text):
        self.attempt(account("a@us.test", via=text), requests=self.ASKED)
        return self.relay.deliveries[-1].envelope.requests

    def test_by_lmtp_on_this_machine(self):
        for text in ("lmtp:unix:/run/lmtp", "lmtp:127.0.0.1:24", "lmtp:[::1]:24", "lmtp:localhost:24"):
            self.assertEqual(self.requests_at(text), Requests(envelope_id="x"))

    def test_by_lmtp_elsewhere(self):
        self.assertEqual(self.requests_at("lmtp:192.0.2.1:24"), Requests(envelope_id="x", requires_tls=True))

    def test_by_smtp(self):
        self.assertEqual(self.requests_at("smtp:[192.0.2.1]"), self.ASKED)


WITH_LOGIN = {"tls": LOGIN.tls, "login": LOGIN.login, "allow_private": True}


def hop(**more):
    return NextHop(**more)


@pytest.mark.parametrize(
    ("text", "next_hop"),
    [
        ("mx", hop(port=2525, tls=TLSPolicy.VERIFY)),
        ("smtp:gate.test:26", hop(domain="gate.test", port=26, tls=TLSPolicy.VERIFY)),
        ("smtp:login.test", hop(domain="login.test", tls=TLSPolicy.VERIFY)),
        ("smtp:[gate.test]", hop(host="gate.test", tls=TLSPolicy.VERIFY, allow_private=True)),
        ("smtp:[127.0.0.1]:26", hop(host="127.0.0.1", port=26, tls=TLSPolicy.MAY, allow_private=True)),
        ("smtp:[login.test]:587", hop(host="login.test", port=587, **WITH_LOGIN)),
        (
            "lmtp:login.test",
            hop(host="login.test", port=24, tls=LOGIN.tls, login=LOGIN.login, allow_private=True, is_lmtp=True),
        ),
        ("lmtp:192.0.2.1:24", hop(host="192.0.2.1", port=24, tls=TLSPolicy.VERIFY, allow_private=True, is_lmtp=True)),
        ("lmtp:unix:/run/lmtp", hop(host="/run/lmtp", port=0, tls=TLSPolicy.MAY, allow_private=True, is_lmtp=True)),
    ],
)
def test_next_hops(text, next_hop):
    transport = parse_transport(text)
    assert next_hop_of(transport, SETTINGS) == next_hop
