"""Rewritten reverse-paths: as postsrsd 1.10 writes them, and nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.address import LOCAL_PART_OCTETS, Address, AddressError, parse_address
from mailstack.mail.srs import SenderRewriting, SRSError, is_rewritten

SECRETS = (b"correct horse battery staple", b"the one before that")
NOW = 1_795_653_490.0  # when postsrsd was asked
DAY_SECONDS = 86_400
RULES = SenderRewriting("fwd.example.org", SECRETS)

# `postsrsd -s secrets -d fwd.example.org -n6`, at NOW.
OF_POSTSRSD = {
    "alice@example.com": "SRS0=KIyX78=JP=example.com=alice",
    '"a b"@example.com': "SRS0=cFD1wf=JP=example.com=a b",
    "Alice.Long+tag=x@sub.example.com": "SRS0=uc5CZ/=JP=sub.example.com=Alice.Long+tag=x",
    "SRS0=abcd=G2=example.net=bob@forward.example": "SRS1=gQGoy4=forward.example==abcd=G2=example.net=bob",
    "SRS0+abcd=G2=example.net=bob@forward.example": "SRS1=2uN5Py=forward.example=+abcd=G2=example.net=bob",
    "SRS1=abcdef=first.example==HHHHHH=G2=example.net=bob@second.example": (
        "SRS1=jP4BRi=first.example==HHHHHH=G2=example.net=bob"
    ),
    "SRS1+abcdef=first.example=+HHHHHH=G2=example.net=bob@second.example": (
        "SRS1=L0Iv6t=first.example=+HHHHHH=G2=example.net=bob"
    ),
}


def there(text: str, rules: SenderRewriting = RULES, now: float = NOW) -> Address:
    rewritten = rules.rewrite(parse_address(text), now)
    assert rewritten is not None
    return rewritten


@pytest.mark.parametrize("sender", OF_POSTSRSD)
def test_as_postsrsd_writes_it(sender):
    assert there(sender) == Address(OF_POSTSRSD[sender], "fwd.example.org")


def test_of_as_many_characters_as_postsrsd_is_told():
    four = SenderRewriting("fwd.example.org", SECRETS, hash_characters=4)
    assert there("alice@example.com", four).local_part == "SRS0=KIyX=JP=example.com=alice"
    assert four.restore(there("alice@example.com", four), NOW) == parse_address("alice@example.com")
    with pytest.raises(SRSError):
        RULES.restore(there("alice@example.com", four), NOW)


@pytest.mark.parametrize(
    ("sender", "back"),
    [
        ("alice@example.com", "alice@example.com"),
        ("Alice.Long+tag=x@sub.example.com", "Alice.Long+tag=x@sub.example.com"),
        ('"a b"@example.com', '"a b"@example.com'),
        ("z\u00f6e@example.com", "z\u00f6e@example.com"),
        ("bob@[192.0.2.1]", "bob@[192.0.2.1]"),
        ("bob@[IPv6:2001:db8::1]", "bob@[IPv6:2001:db8::1]"),
        ("SRS0=abcd=G2=example.net=bob@forward.example", "SRS0=abcd=G2=example.net=bob@forward.example"),
        ("SRS1=a=first.example==HH=G2=e.net=bob@second.example", "SRS0=HH=G2=e.net=bob@first.example"),
        ("srs0-abcd=g2=e.net=bob@forward.example", "SRS0-abcd=g2=e.net=bob@forward.example"),
        ("SRS1=odd@second.example", "SRS1=odd@second.example"),
        ("SRS1=a=no!host==HH=G2=e.net=b@d.example", "SRS1=a=no!host==HH=G2=e.net=b@d.example"),
        ("SRS1=a=first.example=HH@d.example", "SRS1=a=first.example=HH@d.example"),
        ("SRS0@example.com", "SRS0@example.com"),
    ],
)
def test_there_and_back(sender, back):
    rewritten = there(sender)
    assert rewritten.domain == "fwd.example.org"
    assert is_rewritten(rewritten.local_part)
    assert parse_address(str(rewritten)) == rewritten
    assert RULES.restore(rewritten, NOW) == parse_address(back)


@given(st.emails())
def test_whoever_it_is(text):
    try:
        sender = parse_address(text)
    except AddressError:
        return
    rewritten = RULES.rewrite(sender, NOW)
    if rewritten is not None:
        assert len(rewritten.local_part.encode()) <= LOCAL_PART_OCTETS
        assert RULES.restore(rewritten, NOW) == sender


class TestCase:
    """Hosts on the way may have changed it."""

    @pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
    def test_counts_for_nothing(self, change):
        for sender in ("Alice@example.com", "SRS0=aBcD=G2=example.net=Bob@forward.example"):
            rewritten = there(sender)
            changed = Address(change(rewritten.local_part), rewritten.domain)
            assert str(RULES.restore(changed, NOW)).lower() == sender.lower()


class TestForgery:
    REWRITTEN = there("alice@example.com").local_part

    @pytest.mark.parametrize("sender", ["alice@example.com", "SRS0=abcd=G2=example.net=bob@forward.example"])
    def test_each_character_counts(self, sender):
        rewritten = there(sender).local_part
        for place in range(5, len(rewritten)):
            for other in "Q3=":
                forged = rewritten[:place] + other + rewritten[place + 1 :]
                if forged.lower() == rewritten.lower():
                    continue
                with pytest.raises(SRSError):
                    RULES.restore(Address(forged, "fwd.example.org"), NOW)

    @pytest.mark.parametrize(
        "local_part",
        [
            "SRS0=",
            "SRS0=====",
            "SRS0=KIyX78=JP=example.com",
            "SRS0=KIyX78=JP=example.com=",
            "SRS0=KIyX78=JP==alice",
            "SRS0==JP=example.com=alice",
            "SRS0=KIyX7=JP=example.com=alice",
            "SRS0=KIyX788=JP=example.com=alice",
            "SRS1=gQGoy4=forward.example",
            "SRS1=gQGoy4==forward.example=x",
            "SRS1",
            "SRS2=a=b=c=d",
            "alice",
            "",
            "SRS0=\u212aIyX78=JP=example.com=alice",
        ],
    )
    def test_what_is_malformed(self, local_part):
        with pytest.raises(SRSError):
            RULES.restore(Address(local_part, "fwd.example.org"), NOW)

    def test_by_whoever_has_not_the_secret(self):
        with pytest.raises(SRSError):
            RULES.restore(there("alice@example.com", SenderRewriting("fwd.example.org", (b"guessed",))), NOW)

    def test_what_was_signed_leads_to_a_host_or_nowhere(self):
        host = "-- no host --"
        sign = RULES._hash(SECRETS[0], host, "=x")
        with pytest.raises(SRSError):
            RULES.restore(Address(f"SRS1={sign}={host}==x", "fwd.example.org"), NOW)
        sign = RULES._hash(SECRETS[0], "first.example", "bob")
        with pytest.raises(SRSError):
            RULES.restore(Address(f"SRS1={sign}=first.example=bob", "fwd.example.org"), NOW)

    def test_secrets_are_not_shown(self):
        assert "horse" not in repr(RULES)


class TestTime:
    @pytest.mark.parametrize("days", [0, 1, 21])
    def test_three_weeks(self, days):
        assert RULES.restore(there("alice@example.com"), NOW + days * DAY_SECONDS) == parse_address("alice@example.com")

    @pytest.mark.parametrize("days", [22, 23, 500, 1_023, -1, -20])
    def test_not_longer_and_not_before(self, days):
        with pytest.raises(SRSError, match="expired"):
            RULES.restore(there("alice@example.com"), NOW + days * DAY_SECONDS)

    @given(st.integers(0, 2**34), st.integers(0, 21))
    def test_whenever_that_is(self, then, days):
        assert RULES.restore(there("a@b.example", now=float(then)), float(then + days * DAY_SECONDS)) == Address(
            "a", "b.example"
        )

    def test_the_first_who_rewrote_looks_at_the_day_of_another(self):
        rewritten = there("SRS0=abcd=G2=example.net=bob@forward.example")
        assert RULES.restore(rewritten, NOW + 500 * DAY_SECONDS).domain == "forward.example"

    def test_what_is_no_day(self):
        for day in ("J1", "J", "JPP", "\u0131P"):
            sign = RULES._hash(SECRETS[0], day, "example.com", "alice")
            with pytest.raises(SRSError):
                RULES.restore(Address(f"SRS0={sign}={day}=example.com=alice", "fwd.example.org"), NOW)


def test_secrets_can_be_changed():
    old = SenderRewriting("fwd.example.org", SECRETS[1:])
    assert RULES.restore(there("alice@example.com", old), NOW) == parse_address("alice@example.com")
    assert there("alice@example.com", old) != there("alice@example.com")


def test_what_would_be_too_long():
    fits, too_long = "a" * (64 - 16 - len("example.com")), "a" * (64 - 15 - len("example.com"))
    assert len(there(f"{fits}@example.com").local_part) == 64
    assert RULES.rewrite(Address(too_long, "example.com"), NOW) is None
    assert RULES.rewrite(Address("\u00fc" * 20, "example.com"), NOW) is None, "octets count, not characters"
