"""Expansion as tables: who gets the mail to an address, and what is refused."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.address import Address, parse_address
from mailstack.mail.envelope import Account, Recipient, Remote
from mailstack.mail.reply import NO_SUCH_USER
from mailstack.mail.verdict import Refuse
from mailstack.route.expand import LOOPS, TOO_MUCH, Expander
from mailstack.route.transport import TransportMap, parse_transport


class TableDirectory:
    """A directory made of text: accounts, and aliases with their targets."""

    def __init__(self, domains: str, accounts: str = "", **aliases: str) -> None:
        self.domains = domains.split()
        self.accounts = accounts.split()
        self.aliases: dict[str, str] = dict(aliases)
        self.asked: list[str] = []

    async def is_local_domain(self, domain: str) -> bool:
        return domain in self.domains

    async def resolve(self, address: Address) -> Account | tuple[Address, ...] | None:
        name = f"{address.local_part}@{address.domain}".lower()
        self.asked.append(name)
        if name in self.accounts:
            return Account(name)
        if name in self.aliases:
            return tuple(parse_address(target) for target in self.aliases[name].split())
        return None


ALIASES = {
    "info@a.example": "alice@a.example bob@a.example",
    "sales@a.example": "info@a.example carol@b.example",
    "away@a.example": "alice@elsewhere.example",
    "both@a.example": "alice@a.example alice@elsewhere.example",
    "twice@a.example": "alice@a.example info@a.example alice+x@a.example",
    "gone@a.example": "nobody@a.example",
    "partly@a.example": "nobody@a.example bob@a.example ghost@a.example",
    "empty@a.example": "",
    "self@a.example": "self@a.example",
    "selfish@a.example": "selfish@a.example alice@a.example",
    "ping@a.example": "pong@a.example",
    "pong@a.example": "ping@a.example",
    "circle@a.example": "turn@a.example",
    "turn@a.example": "turning@a.example",
    "turning@a.example": "Circle+again@a.example",
    "diamond@a.example": "left@a.example right@a.example",
    "left@a.example": "nobody@a.example",
    "right@a.example": "nobody@a.example",
    "out@a.example": "x@[192.0.2.1] y@[IPv6:2001:db8::1]",
    "cases@a.example": "Alice@a.example ALICE@A.EXAMPLE",
    "remote-cases@a.example": "Bob@elsewhere.example bob@elsewhere.example Bob@elsewhere.example",
    "*@b.example": "carol@b.example",
    "*@c.example": "stray@c.example",
    "team+all@a.example": "bob@a.example",
    "postmaster@b.example": "carol@b.example",
    "postmaster@d.example": "nobody@d.example",
    "abuse@a.example": "postmaster@a.example",
}


def directory_of() -> TableDirectory:
    accounts = "alice@a.example bob@a.example team@a.example user+tag@a.example carol@b.example"
    return TableDirectory("a.example b.example c.example d.example", accounts, **ALIASES)


def run(expander: Expander, text: str) -> tuple[Recipient, ...] | Refuse:
    address = Address(text, "") if "@" not in text else parse_address(text)
    outcomes: list[tuple[Recipient, ...] | Refuse] = []
    Deferred.fromCoroutine(expander.route(address)).addCallback(outcomes.append)
    return outcomes[0]


def shown(outcome: tuple[Recipient, ...] | Refuse) -> str:
    """Recipients as `address=account` or `address>domain`, refusals as their reply."""
    if isinstance(outcome, Refuse):
        return str(outcome.reply)
    return " ".join(
        f"{recipient.address}={recipient.destination.name}"
        if isinstance(recipient.destination, Account)
        else f"{recipient.address}>{recipient.destination.domain}"
        for recipient in outcome
    )


@pytest.mark.parametrize(
    ("forward_path", "expected"),
    [
        # elsewhere
        ("x@elsewhere.example", "x@elsewhere.example>elsewhere.example"),
        ("X+y@Elsewhere.example", "X+y@elsewhere.example>elsewhere.example"),
        ("x@sub.a.example", "x@sub.a.example>sub.a.example"),
        ("x@[192.0.2.1]", "x@[192.0.2.1]>[192.0.2.1]"),
        ("alice@[127.0.0.1]", "alice@[127.0.0.1]>[127.0.0.1]"),
        # accounts
        ("alice@a.example", "alice@a.example=alice@a.example"),
        ("Alice@A.Example", "Alice@a.example=alice@a.example"),
        ("alice+list@a.example", "alice+list@a.example=alice@a.example"),
        ("alice+a+b@a.example", "alice+a+b@a.example=alice@a.example"),
        ("alice+@a.example", "alice+@a.example=alice@a.example"),
        ("user+tag@a.example", "user+tag@a.example=user+tag@a.example"),
        ("user+other@a.example", str(NO_SUCH_USER)),
        ('"alice"@a.example', "alice@a.example=alice@a.example"),
        ("nobody@a.example", str(NO_SUCH_USER)),
        ("+alice@a.example", str(NO_SUCH_USER)),
        ('"alice@elsewhere.example"@a.example', str(NO_SUCH_USER)),
        ("alice%elsewhere.example@a.example", str(NO_SUCH_USER)),
        ("elsewhere.example!alice@a.example", str(NO_SUCH_USER)),
        # aliases
        ("info@a.example", "alice@a.example=alice@a.example bob@a.example=bob@a.example"),
        ("info+x@a.example", "alice@a.example=alice@a.example bob@a.example=bob@a.example"),
        ("team+all@a.example", "bob@a.example=bob@a.example"),
        ("team+x@a.example", "team+x@a.example=team@a.example"),
        ("sales@a.example", "alice@a.example=alice@a.example bob@a.example=bob@a.example carol@b.example=carol@b.example"),
        ("away@a.example", "alice@elsewhere.example>elsewhere.example"),
        ("both@a.example", "alice@a.example=alice@a.example alice@elsewhere.example>elsewhere.example"),
        ("twice@a.example", "alice@a.example=alice@a.example bob@a.example=bob@a.example"),
        ("cases@a.example", "Alice@a.example=alice@a.example"),
        ("remote-cases@a.example", "Bob@elsewhere.example>elsewhere.example"),
        ("out@a.example", "x@[192.0.2.1]>[192.0.2.1] y@[IPv6:2001:db8::1]>[IPv6:2001:db8::1]"),
        # aliases that lead nowhere, in part or altogether
        ("gone@a.example", str(NO_SUCH_USER)),
        ("partly@a.example", "bob@a.example=bob@a.example"),
        ("empty@a.example", str(NO_SUCH_USER)),
        ("diamond@a.example", str(NO_SUCH_USER)),
        # circles
        ("self@a.example", str(LOOPS)),
        ("selfish@a.example", "alice@a.example=alice@a.example"),
        ("ping@a.example", str(LOOPS)),
        ("pong+x@a.example", str(LOOPS)),
        ("circle@a.example", str(LOOPS)),
        # catch-all
        ("anyone@b.example", "carol@b.example=carol@b.example"),
        ("anyone+x@b.example", "carol@b.example=carol@b.example"),
        ("*@b.example", "carol@b.example=carol@b.example"),
        ("carol+x@b.example", "carol+x@b.example=carol@b.example"),
        ("anyone@c.example", str(LOOPS)),
        ("stray@c.example", str(LOOPS)),
        # the postmaster, without a fallback
        ("postmaster", str(NO_SUCH_USER)),
        ("postmaster@a.example", str(NO_SUCH_USER)),
        ("postmaster@b.example", "carol@b.example=carol@b.example"),
        ("abuse@a.example", str(NO_SUCH_USER)),
        ("alice", str(NO_SUCH_USER)),
    ],
)
def test_table(forward_path: str, expected: str) -> None:
    outcome = run(Expander(directory_of()), forward_path)
    assert shown(outcome) == expected
    if not isinstance(outcome, Refuse):
        wanted = parse_address(forward_path)
        assert {recipient.original for recipient in outcome} == {wanted}


@pytest.mark.parametrize(
    ("forward_path", "expected"),
    [
        ("postmaster", "alice@a.example=alice@a.example"),
        ("PostMaster", "alice@a.example=alice@a.example"),
        ("postmaster+x", "alice@a.example=alice@a.example"),
        ("postmaster@a.example", "alice@a.example=alice@a.example"),
        ("Postmaster+tag@A.example", "alice@a.example=alice@a.example"),
        ("postmaster@b.example", "carol@b.example=carol@b.example"),
        ("postmaster@d.example", "alice@a.example=alice@a.example"),
        ("abuse@a.example", "alice@a.example=alice@a.example"),
        ("postmaster@elsewhere.example", "postmaster@elsewhere.example>elsewhere.example"),
        ("postmaster2@a.example", str(NO_SUCH_USER)),
        ("alice", str(NO_SUCH_USER)),
        ("nobody@a.example", str(NO_SUCH_USER)),
    ],
)
def test_postmaster_has_a_fallback(forward_path: str, expected: str) -> None:
    assert shown(run(Expander(directory_of(), postmaster=parse_address("alice@a.example")), forward_path)) == expected


def test_fallback_may_be_an_alias_or_elsewhere() -> None:
    for fallback, expected in (
        ("info@a.example", "alice@a.example=alice@a.example bob@a.example=bob@a.example"),
        ("x@elsewhere.example", "x@elsewhere.example>elsewhere.example"),
        ("nobody@a.example", str(NO_SUCH_USER)),
        ("self@a.example", str(LOOPS)),
        ("postmaster@a.example", str(LOOPS)),
    ):
        assert shown(run(Expander(directory_of(), postmaster=parse_address(fallback)), "postmaster")) == expected


def test_catch_all_may_be_an_account() -> None:
    directory = TableDirectory("a.example", "*@a.example")
    assert shown(run(Expander(directory), "x@a.example")) == "x@a.example=*@a.example"


@pytest.mark.parametrize(
    ("delimiter", "forward_path", "expected"),
    [
        ("-", "alice-x@a.example", "alice-x@a.example=alice@a.example"),
        ("-", "alice+x@a.example", str(NO_SUCH_USER)),
        ("", "alice+x@a.example", str(NO_SUCH_USER)),
        ("", "alice@a.example", "alice@a.example=alice@a.example"),
    ],
)
def test_delimiter(delimiter: str, forward_path: str, expected: str) -> None:
    assert shown(run(Expander(directory_of(), delimiter=delimiter), forward_path)) == expected


@pytest.mark.parametrize("length", [1, 9, 10, 11, 50])
def test_depth(length: int) -> None:
    chain = {f"n{number}@a.example": f"n{number + 1}@a.example" for number in range(length)}
    directory = TableDirectory("a.example", f"n{length}@a.example", **chain)
    outcome = shown(run(Expander(directory, max_depth=10), "n0@a.example"))
    assert outcome == (f"n{length}@a.example=n{length}@a.example" if length <= 10 else str(TOO_MUCH))


@pytest.mark.parametrize("targets", [99, 100, 101, 5_000])
@pytest.mark.parametrize("domain", ["a.example", "elsewhere.example"])
def test_size(targets: int, domain: str) -> None:
    names = [f"n{number}@{domain}" for number in range(targets)]
    directory = TableDirectory("a.example", " ".join(names), **{"all@a.example": " ".join(names)})
    outcome = run(Expander(directory, max_recipients=100), "all@a.example")
    if targets <= 100:
        assert not isinstance(outcome, Refuse)
        assert [str(recipient.address) for recipient in outcome] == names
    else:
        assert shown(outcome) == str(TOO_MUCH)
        assert len(directory.asked) <= 201


def test_work_is_bounded_when_nothing_is_found() -> None:
    """An alias bomb: each leads to many, and nobody of them exists."""
    names = [f"n{number}@a.example" for number in range(200)]
    directory = TableDirectory("a.example", **{name: " ".join(names) for name in names})
    assert shown(run(Expander(directory, max_recipients=50), "n0@a.example")) == str(TOO_MUCH)
    assert len(directory.asked) <= 300


def test_refusals_say_why_to_the_log_only() -> None:
    outcome = run(Expander(directory_of()), "ping@a.example")
    assert isinstance(outcome, Refuse)
    assert "ping@a.example" in outcome.cause
    assert "ping" not in str(outcome.reply)
    assert LOOPS.is_permanent
    assert TOO_MUCH.is_temporary


class ExpanderWaitingTests(SynchronousTestCase):
    """A directory that takes its time, or fails."""

    def test_error_of_the_directory_is_the_callers(self) -> None:
        class Broken(TableDirectory):
            async def resolve(self, address: Address) -> Account | tuple[Address, ...] | None:
                raise RuntimeError("directory")

        coroutine = Expander(Broken("a.example")).route(Address("alice", "a.example"))
        self.failureResultOf(Deferred.fromCoroutine(coroutine), RuntimeError)

    def test_waits_for_the_directory(self) -> None:
        answer: Deferred[bool] = Deferred()

        class Slow(TableDirectory):
            async def is_local_domain(self, domain: str) -> bool:
                return await answer

        waiting = Deferred.fromCoroutine(Expander(Slow("")).route(Address("x", "elsewhere.example")))
        self.assertNoResult(waiting)
        answer.callback(False)
        (recipient,) = self.successResultOf(waiting)
        self.assertEqual(recipient.destination, Remote("elsewhere.example"))


def with_transports(open_domains: str = "", **entries: str) -> Expander:
    """Make an expander with a map; in its keys `__at__` stands for @, and `_` for a dot."""
    parsed = {key.replace("__at__", "@").replace("_", "."): parse_transport(value) for key, value in entries.items()}
    return Expander(directory_of(), transports=TransportMap(parsed, open_domains=frozenset(open_domains.split())))


class TransportTests(SynchronousTestCase):
    """Where the mail goes does not say whose it is, but an error refuses it."""

    def refusal(self, expander: Expander, text: str) -> str:
        refused = run(expander, text)
        assert isinstance(refused, Refuse)
        return str(refused.reply)

    def test_an_account_elsewhere_is_still_an_account(self) -> None:
        (only,) = found(run(with_transports(a_example="smtp:[192.0.2.1]"), "alice+x@a.example"))
        assert (only.address, only.destination) == (parse_address("alice+x@a.example"), Account("alice@a.example"))

    def test_of_a_domain_elsewhere_only_the_directorys_addresses_are_taken(self) -> None:
        assert self.refusal(with_transports(a_example="smtp:[192.0.2.1]"), "nobody@a.example") == str(NO_SUCH_USER)

    def test_unless_all_are_to_be_taken(self) -> None:
        expander = with_transports("a.example", a_example="smtp:[192.0.2.1]")
        (only,) = found(run(expander, "nobody@a.example"))
        assert only.destination == Remote("a.example")
        (only,) = found(run(expander, "alice@a.example"))
        assert only.destination == Account("alice@a.example")

    def test_or_the_address_has_an_entry_of_its_own(self) -> None:
        expander = with_transports(shop__at__a_example="lmtp:unix:/run/shop")
        (only,) = found(run(expander, "Shop+1@a.example"))
        assert (only.address, only.destination) == (parse_address("Shop+1@a.example"), Remote("a.example"))
        assert self.refusal(expander, "shopping@a.example") == str(NO_SUCH_USER)

    def test_an_alias_may_lead_to_such_an_address(self) -> None:
        expander = with_transports(nobody__at__a_example="hold")
        assert [each.address.local_part for each in found(run(expander, "partly@a.example"))] == ["nobody", "bob"]

    def test_an_error_refuses_an_address_a_domain_and_all_others(self) -> None:
        expander = with_transports(alice__at__a_example="error: 5.1.6 Moved", e_example="error: 4.3.2 Later")
        assert self.refusal(expander, "alice@a.example") == "550 5.1.6 Moved"
        assert self.refusal(expander, "alice+x@a.example") == "550 5.1.6 Moved"
        assert self.refusal(expander, "x@e.example") == "450 4.3.2 Later"
        assert found(run(expander, "bob@a.example"))
        closed = Expander(directory_of(), transports=TransportMap({"*": parse_transport("error: 5.7.1 No mail leaves")}))
        assert self.refusal(closed, "x@elsewhere.example") == "550 5.7.1 No mail leaves"
        assert found(run(closed, "bob@a.example"))

    def test_an_error_at_a_target_is_passed_over_while_others_remain(self) -> None:
        expander = with_transports(alice__at__a_example="error: 5.1.6 Moved")
        assert [str(each.address) for each in found(run(expander, "info@a.example"))] == ["bob@a.example"]
        only = with_transports(elsewhere_example="error: 5.1.6 Moved")
        assert self.refusal(only, "away@a.example") == "550 5.1.6 Moved"

    def test_an_entry_does_not_make_a_domain_ours(self) -> None:
        expander = with_transports("other.example", other_example="smtp:[192.0.2.1]")
        assert found(run(expander, "x@other.example")) == found(run(Expander(directory_of()), "x@other.example"))

    def test_a_changed_map_counts_at_once(self) -> None:
        expander = with_transports()
        assert found(run(expander, "alice@a.example"))
        expander.transports = TransportMap({"a.example": parse_transport("error: 5.7.1 No")})
        assert self.refusal(expander, "alice@a.example") == "550 5.7.1 No"


def found(outcome: tuple[Recipient, ...] | Refuse) -> tuple[Recipient, ...]:
    assert not isinstance(outcome, Refuse), outcome.reply
    return outcome
