"""The addresses under which we forward: what they become, and where what comes back to them goes."""

from __future__ import annotations

from typing import Any

import pytest
from test_expand import TableDirectory
from twisted.internet.defer import Deferred

from mailstack.mail.address import Address, parse_address
from mailstack.mail.envelope import Account, Recipient, Remote
from mailstack.mail.reply import NO_SUCH_USER
from mailstack.mail.srs import SenderRewriting
from mailstack.mail.verdict import Refuse
from mailstack.route.expand import Expander
from mailstack.route.returns import ReturnPaths

NOW = 1_795_653_490.0


class World:
    def __init__(self, domain: str | None = "a.example") -> None:
        directory = TableDirectory(
            "a.example b.example", "alice@a.example postmaster@b.example", **{"*@b.example": "alice@a.example"}
        )
        rewriting = SenderRewriting(domain, (b"a secret of ours",)) if domain else None
        self.now = NOW
        self.kept: list[Address] = []
        self.paths = ReturnPaths(
            Expander(directory, postmaster=parse_address("alice@a.example")),
            directory,
            rewriting=rewriting,
            seconds=lambda: self.now,
            too_long=self.kept.append,
        )

    def route(self, text: str) -> Any:
        return done(self.paths.route(parse_address(text)))

    def forwarding(self, text: str) -> str:
        return str(done(self.paths.forwarding(parse_address(text))))


def done(coroutine: Any) -> Any:
    outcomes: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(outcomes.append)
    return outcomes[0]


class TestForwarding:
    def test_a_stranger_gets_an_address_of_ours(self):
        rewritten = World().forwarding("bob@c.example")
        assert rewritten.startswith("SRS0=")
        assert rewritten.endswith("=JP=c.example=bob@a.example")

    @pytest.mark.parametrize("sender", ["alice@a.example", "anybody@b.example"])
    def test_who_is_ours_keeps_his(self, sender):
        assert World().forwarding(sender) == sender

    def test_what_we_have_rewritten_is_not_rewritten_again(self):
        world = World("returns.a.example")
        once = world.forwarding("bob@c.example")
        assert once != "bob@c.example"
        assert world.forwarding(once) == once

    def test_nothing_is_done_unless_that_is_wanted(self):
        assert World(None).forwarding("bob@c.example") == "bob@c.example"

    def test_what_is_too_long_stays_and_is_told(self):
        world = World()
        sender = "b" * 60 + "@c.example"
        assert world.forwarding(sender) == sender
        assert world.kept == [parse_address(sender)]


class TestBack:
    @pytest.mark.parametrize("domain", ["a.example", "returns.a.example"])
    def test_to_the_sender_wherever_that_is(self, domain):
        world = World(domain)
        rewritten = world.forwarding("bob@c.example")
        [recipient] = world.route(rewritten)
        assert recipient == Recipient(
            address=parse_address("bob@c.example"), original=parse_address(rewritten), destination=Remote("c.example")
        )

    def test_to_the_first_who_rewrote_it(self):
        world = World()
        [recipient] = world.route(world.forwarding("SRS0=hash=JP=c.example=bob@d.example"))
        assert str(recipient.address) == "SRS0=hash=JP=c.example=bob@d.example"
        assert recipient.destination == Remote("d.example")

    def test_to_one_who_is_ours_meanwhile(self):
        world = World()
        rewritten = world.paths.rewriting.rewrite(parse_address("alice@a.example"), NOW)
        [recipient] = world.route(str(rewritten))
        assert recipient.destination == Account("alice@a.example")
        assert recipient.original == rewritten

    def test_not_in_a_circle(self):
        world = World()
        once = world.forwarding("b@c.example")
        twice = world.paths.rewriting.rewrite(parse_address(once), NOW)
        assert world.route(str(twice)) == Refuse(NO_SUCH_USER)

    def test_not_with_a_forged_one(self):
        refused = World().route("SRS0=aaaaaa=JP=c.example=victim@a.example")
        assert str(refused.reply).startswith("550 5.7.1 ")

    def test_not_too_late(self):
        world = World()
        rewritten = world.forwarding("bob@c.example")
        world.now += 22 * 86_400
        refused = world.route(rewritten)
        assert str(refused.reply) == "550 5.7.1 This return address has expired"

    def test_of_another_domain_it_is_an_address_like_others(self):
        world = World()
        rewritten = world.forwarding("bob@c.example").replace("@a.example", "@b.example")
        assert [each.destination for each in world.route(rewritten)] == [Account("alice@a.example")]
        assert world.route(rewritten.replace("@b.", "@x."))[0].destination == Remote("x.example")

    def test_none_is_known_unless_that_is_wanted(self):
        rewritten = World().forwarding("bob@c.example")
        assert World(None).route(rewritten) == Refuse(NO_SUCH_USER)


class TestOthers:
    def test_at_a_domain_that_is_ours_besides(self):
        world = World()
        assert [each.destination for each in world.route("alice@a.example")] == [Account("alice@a.example")]
        assert world.route("nobody@a.example") == Refuse(NO_SUCH_USER)
        assert world.route("srs0@a.example") == Refuse(NO_SUCH_USER)

    def test_at_a_domain_of_its_own_there_is_only_the_postmaster(self):
        world = World("returns.a.example")
        [recipient] = world.route("PostMaster@returns.a.example")
        assert recipient.destination == Account("alice@a.example")
        assert str(recipient.original) == "PostMaster@returns.a.example"
        assert world.route("alice@returns.a.example") == Refuse(NO_SUCH_USER)

    def test_elsewhere(self):
        assert [each.destination for each in World().route("bob@c.example")] == [Remote("c.example")]
