"""The lockout: who is not asked for a password again, and who always is."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from mailstack.lockout import GOOD_SECONDS, Lockout, LockoutLimits, by_token, login_network
from mailstack.net.shared_counts import SharedMemory
from mailstack.net.tallies import BUCKETS, WAYS, Tally

ALICE, BOB = "alice@example.org", "bob@example.org"
HERE, NEIGHBOUR, ELSEWHERE = "192.0.2.1", "192.0.2.99", "198.51.100.1"
LIMITS = LockoutLimits(failures=3, failures_per_network=5, window_seconds=600)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lockout(clock: Clock) -> Lockout:
    failed, good = (Tally.alone(bytes(32), clock.seconds) for _ in range(2))
    return Lockout(failed, good, LIMITS)


def fail(lockout: Lockout, peer: str, *usernames: str) -> None:
    for username in usernames:
        lockout.has_failed(peer, username)


def test_a_network_is_locked_out_of_one_account(lockout: Lockout) -> None:
    fail(lockout, HERE, ALICE, ALICE)
    assert not lockout.is_locked(HERE, ALICE)
    fail(lockout, NEIGHBOUR, ALICE)
    assert [lockout.is_locked(peer, ALICE) for peer in (HERE, NEIGHBOUR, ELSEWHERE)] == [True, True, False]
    assert not lockout.is_locked(HERE, BOB)


def test_and_after_more_of_all_accounts_but_those_that_it_is_known_to_have(lockout: Lockout) -> None:
    lockout.has_succeeded(HERE, BOB)
    fail(lockout, HERE, "a@x.example", "b@x.example", "c@x.example", "d@x.example")
    assert not lockout.is_locked(HERE, ALICE)
    fail(lockout, HERE, "e@x.example")
    assert lockout.is_locked(HERE, ALICE)
    assert not lockout.is_locked(NEIGHBOUR, BOB)
    assert not lockout.is_locked(ELSEWHERE, ALICE)
    fail(lockout, HERE, BOB, BOB, BOB)
    assert lockout.is_locked(HERE, BOB), "its own failures still count"


def test_it_is_over_after_its_time(lockout: Lockout, clock: Clock) -> None:
    fail(lockout, HERE, ALICE, ALICE, ALICE, BOB, BOB)
    clock.advance(599)
    assert lockout.is_locked(HERE, ALICE)
    assert lockout.is_locked(HERE, "carol@example.org")
    clock.advance(1)
    assert not lockout.is_locked(HERE, ALICE)
    assert not lockout.is_locked(HERE, "carol@example.org")


def test_a_network_is_not_known_for_ever(lockout: Lockout, clock: Clock) -> None:
    lockout.has_succeeded(HERE, ALICE)
    clock.advance(GOOD_SECONDS)
    fail(lockout, HERE, *[BOB] * 5)
    assert lockout.is_locked(HERE, ALICE)


@pytest.mark.parametrize(
    "variant", ["ALICE@example.ORG", "alice@example.org.", '"alice"@example.org', '"\\al\\ice"@Example.org']
)
def test_an_account_is_one_however_it_is_written(lockout: Lockout, variant: str) -> None:
    fail(lockout, HERE, ALICE, variant, ALICE)
    assert lockout.is_locked(HERE, variant)


def test_the_same_wrong_password_again_is_no_further_guess(lockout: Lockout) -> None:
    for _ in range(9):
        lockout.has_failed(HERE, ALICE, b"the old one")
    assert not lockout.is_locked(HERE, ALICE)
    for password in (b"guess", b"another"):
        lockout.has_failed(HERE, ALICE, password)
    assert lockout.is_locked(HERE, ALICE)
    for number in range(2):
        assert not lockout.is_locked(HERE, BOB)
        lockout.has_failed(HERE, f"{number}@example.org", b"the old one")
    assert lockout.is_locked(HERE, BOB), "one password at many accounts is a guess at each"


def test_names_that_are_no_addresses_count_too(lockout: Lockout) -> None:
    fail(lockout, HERE, *["\ufffd admin"] * 3)
    assert lockout.is_locked(HERE, "\ufffd ADMIN")


def test_a_socket_of_this_machine_has_no_network(lockout: Lockout) -> None:
    fail(lockout, "", *[ALICE] * 9)
    lockout.has_succeeded("", ALICE)
    assert not lockout.is_locked("", ALICE)


def test_many_addresses_make_nobody_else_locked_out_and_free_nobody(lockout: Lockout) -> None:
    fail(lockout, HERE, *[ALICE] * 3)
    for number in range(BUCKETS * WAYS):
        fail(lockout, f"2001:db8:{number >> 16:x}:{number & 65535:x}::1", ALICE)
    assert lockout.is_locked(HERE, ALICE)
    assert not lockout.is_locked(ELSEWHERE, ALICE)
    assert not lockout.is_locked("2001:db9::1", ALICE)


def test_networks() -> None:
    assert login_network(HERE) == login_network(NEIGHBOUR) != login_network(ELSEWHERE)
    assert login_network("2001:db8::1") == login_network("2001:db8::2") != login_network("2001:db8:0:1::1")
    assert login_network("127.0.0.1") == "127.0.0.1"


def test_tokens_have_pairs_of_their_own(lockout: Lockout) -> None:
    fail(lockout, HERE, *[by_token(each) for each in ("alice@example.org", "ALICE@example.ORG.", '"alice"@example.org')])
    assert [lockout.is_locked(HERE, each) for each in (by_token(ALICE), ALICE, by_token(""), by_token(BOB))] == [
        True, False, False, False,
    ]  # fmt: skip
    fail(lockout, HERE, BOB, BOB)
    assert lockout.is_locked(HERE, by_token(BOB)), "for the network they count together"
    lockout.has_succeeded(HERE, by_token(BOB))
    assert not lockout.is_locked(HERE, by_token(BOB))
    assert lockout.is_locked(HERE, "carol@example.org")


def test_the_same_token_again_is_no_further_failure(lockout: Lockout) -> None:
    for _ in range(9):
        lockout.has_failed(HERE, by_token(ALICE), b"expired")
    assert not lockout.is_locked(HERE, by_token(ALICE))


def test_who_is_let_in_again_may_try_as_often_as_before(lockout: Lockout) -> None:
    fail(lockout, HERE, *[ALICE] * 3, *[BOB] * 3)
    assert lockout.lift(NEIGHBOUR, "ALICE@Example.org")
    assert [lockout.is_locked(HERE, each) for each in (ALICE, BOB)] == [False, True], "each for itself"
    fail(lockout, HERE, ALICE, ALICE)
    assert not lockout.is_locked(HERE, ALICE)
    fail(lockout, HERE, ALICE)
    assert lockout.is_locked(HERE, ALICE)
    assert not lockout.lift(ELSEWHERE, ALICE)
    assert lockout.is_locked(HERE, ALICE), "it was about another place"


def test_a_network_is_let_in_again(lockout: Lockout) -> None:
    fail(lockout, HERE, *[ALICE] * 3, *[BOB] * 2)
    assert lockout.is_locked(HERE, "carol@example.org")
    assert lockout.lift(HERE)
    assert [lockout.is_locked(HERE, each) for each in (ALICE, BOB, "carol@example.org")] == [True, False, False]
    assert not lockout.lift(HERE), "it is let in"
    assert not lockout.lift(""), "nobody is locked out there"


def test_in_the_workers_of_one_server_it_is_the_same(clock: Clock) -> None:
    memory = SharedMemory.create(workers=2, kinds=1, tallies=2, key=bytes(16))
    one, other = (Lockout(*(memory.tally(worker, each, clock.seconds) for each in range(2)), LIMITS) for worker in range(2))
    fail(one, HERE, ALICE, ALICE)
    fail(other, HERE, ALICE, BOB, BOB)
    assert one.is_locked(HERE, ALICE)
    assert one.is_locked(HERE, BOB)
    assert one.lift(HERE, ALICE)
    assert not other.is_locked(HERE, ALICE)
    assert not other.is_locked(HERE, BOB)
    memory.close()
