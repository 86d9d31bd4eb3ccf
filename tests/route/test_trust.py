"""The rule of trust as tables: from what is set and published to what is asked of TLS."""

from __future__ import annotations

from typing import Any

import pytest

from mailstack.mail.answers import TLSA, Empty, Exchange, Failed, Found, NoSuchDomain
from mailstack.mail.mta_sts import Mode, Policy, Standing
from mailstack.mail.tls_results import AppliedPolicy, TLSFailure
from mailstack.route.trust import (
    Barred,
    Security,
    TLSPolicy,
    by_dane,
    by_mta_sts,
    by_setting,
    is_unsigned_alias,
    is_vouched_for,
    level_of,
    level_of_named,
    tlsa_bases,
    usable,
)

EE = TLSA(3, 1, 1, b"x" * 32)
TA = TLSA(2, 0, 1, b"y" * 32)
IPV4 = Found(("192.0.2.1",), True, "mx.test")
INSECURE = Found(("192.0.2.1",), False, "mx.test")


class TestLevels:
    LEVELS = {"a.test": TLSPolicy.VERIFY, ".test": TLSPolicy.ENCRYPT, ".b.test": TLSPolicy.NONE}

    @pytest.mark.parametrize(
        ("domain", "level"),
        [
            ("a.test", TLSPolicy.VERIFY),
            ("x.a.test", TLSPolicy.ENCRYPT),
            ("b.test", TLSPolicy.ENCRYPT),
            ("x.b.test", TLSPolicy.NONE),
            ("x.y.b.test", TLSPolicy.NONE),
            ("test", TLSPolicy.DANE),
            ("xtest", TLSPolicy.DANE),
            ("[192.0.2.1]", TLSPolicy.DANE),
        ],
    )
    def test_the_longest_counts(self, domain: str, level: TLSPolicy) -> None:
        assert level_of(domain, self.LEVELS, TLSPolicy.DANE) is level

    def test_all_others(self) -> None:
        assert level_of("test", {**self.LEVELS, "*": TLSPolicy.MAY}, TLSPolicy.DANE) is TLSPolicy.MAY
        assert level_of("a.test", {**self.LEVELS, "*": TLSPolicy.MAY}, TLSPolicy.DANE) is TLSPolicy.VERIFY


class TestLevelsOfNamed:
    """Of hosts that the operator has named."""

    LEVELS = {
        "loose.test": TLSPolicy.NONE,
        "may.test": TLSPolicy.MAY,
        "dane.test": TLSPolicy.DANE,
        ".strict.test": TLSPolicy.ENCRYPT,
        "bank.test": TLSPolicy.VERIFY,
        "192.0.2.1": TLSPolicy.VERIFY,
        "127.0.0.2": TLSPolicy.ENCRYPT,
        "*": TLSPolicy.ENCRYPT,
    }

    @pytest.mark.parametrize(
        ("host", "domains", "level"),
        [
            ("host.test", ["example.test"], TLSPolicy.ENCRYPT),
            ("host.test", ["bank.test"], TLSPolicy.VERIFY),
            ("bank.test", ["example.test"], TLSPolicy.VERIFY),
            ("192.0.2.1", ["example.test"], TLSPolicy.VERIFY),
            ("host.test", ["loose.test"], TLSPolicy.NONE),
            ("bank.test", ["loose.test"], TLSPolicy.VERIFY),
            ("loose.test", ["bank.test"], TLSPolicy.VERIFY),
            ("loose.test", ["may.test"], TLSPolicy.MAY),
            ("dane.test", ["may.test"], TLSPolicy.DANE),
            ("dane.test", ["x.strict.test"], TLSPolicy.ENCRYPT),
            ("host.test", ["loose.test", "bank.test", "may.test"], TLSPolicy.VERIFY),
            ("127.0.0.1", ["example.test"], TLSPolicy.MAY),
            ("::1", ["example.test"], TLSPolicy.MAY),
            ("localhost", ["example.test"], TLSPolicy.MAY),
            ("localhost", ["bank.test"], TLSPolicy.VERIFY),
            ("127.0.0.2", ["example.test"], TLSPolicy.ENCRYPT),
        ],
    )
    def test_the_strictest_of_what_is_set_for_a_name(self, host: str, domains: list[str], level: TLSPolicy) -> None:
        assert level_of_named(host, domains, self.LEVELS, TLSPolicy.MAY) is level

    def test_with_nothing_set(self) -> None:
        for host in ("host.test", "localhost"):
            assert level_of_named(host, ["bank.test"], {}, TLSPolicy.DANE) is TLSPolicy.DANE

    @pytest.mark.parametrize(
        ("host", "domain", "level"),
        [
            ("host.test", "example.test", TLSPolicy.ENCRYPT),
            ("loose.test", "may.test", TLSPolicy.ENCRYPT),
            ("host.test", "bank.test", TLSPolicy.VERIFY),
            ("bank.test", "example.test", TLSPolicy.VERIFY),
        ],
    )
    def test_what_protects_a_password_is_not_fallen_below(self, host: str, domain: str, level: TLSPolicy) -> None:
        levels = {**self.LEVELS, "*": TLSPolicy.NONE}
        assert level_of_named(host, [domain], levels, TLSPolicy.ENCRYPT, has_login=True) is level


@pytest.mark.parametrize(
    ("exchanges", "host", "expected"),
    [
        (Found((Exchange(10, "mx.test"),), True), "mx.test", True),
        (Found((Exchange(10, "mx.test"),), False), "mx.test", False),
        (Found((Exchange(10, "other.test"),), True), "mx.test", False),  # what was found before was another answer
        (Empty(), "example.test", True),
        (Empty(), "mx.test", False),
        (NoSuchDomain(), "mx.test", False),
        (Failed("timeout"), "example.test", False),
    ],
)
def test_who_is_vouched_for(exchanges: Any, host: str, expected: bool) -> None:
    assert is_vouched_for("example.test", host, exchanges) is expected


class TestBases:
    @pytest.mark.parametrize(
        ("ipv6", "ipv4", "bases"),
        [
            (Empty(), IPV4, ("mx.test",)),
            (Failed("timeout"), IPV4, ("mx.test",)),
            (IPV4, IPV4, ("mx.test",)),
            (Empty(), INSECURE, ()),
            (IPV4, INSECURE, ()),
            (Empty(), Empty(), ()),
            (Failed("bogus"), Failed("bogus"), ()),
            (Empty(), Found(("192.0.2.1",), True), ("mx.test",)),
            (Empty(), Found(("192.0.2.1",), True, "real.test"), ("real.test", "mx.test")),
            (Empty(), Found(("192.0.2.1",), False, "real.test"), ()),
        ],
    )
    def test_where_records_may_stand(self, ipv6: Any, ipv4: Any, bases: tuple[str, ...]) -> None:
        assert tlsa_bases("mx.test", ipv6, ipv4) == bases

    def test_a_signed_alias_to_what_is_not_signed(self) -> None:
        away = Found(("192.0.2.1",), False, "real.test")
        assert is_unsigned_alias("mx.test", Empty(), away)
        assert tlsa_bases("mx.test", Empty(), away, Found(("real.test",), True)) == ("mx.test",)
        assert tlsa_bases("mx.test", Empty(), away, Found(("real.test",), False)) == ()
        assert tlsa_bases("mx.test", Empty(), away, Failed("x")) == ()
        assert not is_unsigned_alias("mx.test", Empty(), INSECURE)
        assert not is_unsigned_alias("mx.test", Empty(), Found(("192.0.2.1",), True, "real.test"))


class TestUsable:
    @pytest.mark.parametrize(
        "record",
        [
            TLSA(0, 0, 1, b"x" * 32),  # PKIX-TA and PKIX-EE: RFC 7672 §3.1.3
            TLSA(1, 1, 1, b"x" * 32),
            TLSA(4, 1, 1, b"x" * 32),
            TLSA(255, 1, 1, b"x" * 32),
            TLSA(3, 2, 1, b"x" * 32),
            TLSA(3, 1, 3, b"x" * 32),
            TLSA(3, 1, 1, b"x" * 31),
            TLSA(3, 1, 2, b"x" * 32),
            TLSA(3, 1, 1, b""),
            TLSA(3, 0, 0, b""),
        ],
    )
    def test_not(self, record: TLSA) -> None:
        assert usable([record]) == ()
        assert usable([record, EE]) == (EE,)

    @pytest.mark.parametrize("usage", [2, 3])
    @pytest.mark.parametrize("selector", [0, 1])
    @pytest.mark.parametrize(("matching", "octets"), [(0, 1), (1, 32), (2, 64)])
    def test_usable(self, usage: int, selector: int, matching: int, octets: int) -> None:
        record = TLSA(usage, selector, matching, b"x" * octets)
        assert usable([record]) == (record,)

    def test_the_strongest_digest_of_a_kind_counts(self) -> None:
        strong, whole = TLSA(3, 1, 2, b"x" * 64), TLSA(3, 1, 0, b"x")
        assert usable([EE, strong, TA]) == (strong, TA)
        assert usable([EE, whole]) == (EE, whole)

    def test_very_many(self) -> None:
        assert len(usable([EE] * 1_000)) == 20


class TestDANE:
    @pytest.mark.parametrize("answer", [Empty(), NoSuchDomain(), Found((EE,), False)])
    def test_none_that_are_validated(self, answer: Any) -> None:
        assert by_dane("mx.test", ("example.test",), answer) is None

    def test_the_host_s_own(self) -> None:
        security = by_dane("mx.test", ("mx.test", "example.test"), Found((EE,), True))
        assert security == Security(level=TLSPolicy.DANE, names=("mx.test",), tlsa=(EE,))
        assert isinstance(security, Security)
        assert (security.is_trusted, security.may_be_clear, security.source) == (True, False, "dane")
        assert security.applied == AppliedPolicy("tlsa", "mx.test", (f"3 1 1 {'78' * 32}",))

    def test_an_authority_s(self) -> None:
        security = by_dane("real.test", ("mx.test", "example.test"), Found((TA,), True))
        assert isinstance(security, Security)
        assert security.names == ("real.test", "mx.test", "example.test")

    def test_none_is_usable(self) -> None:
        security = by_dane("mx.test", (), Found((TLSA(1, 1, 1, b"x" * 32),), True))
        assert isinstance(security, Security)
        assert (security.level, security.is_trusted, security.flaw) == (TLSPolicy.ENCRYPT, False, TLSFailure.TLSA_INVALID)

    def test_nobody_can_say(self) -> None:
        barred = by_dane("mx.test", (), Failed("SERVFAIL"))
        assert isinstance(barred, Barred)
        assert (str(barred.route.status), barred.failure) == ("4.4.3", TLSFailure.DNSSEC_INVALID)


class TestMTASTS:
    def of(self, mode: Mode, host: str = "mx.test") -> Security | Barred:
        return by_mta_sts("example.test", host, Standing(Policy(mode, ("mx.test", "*.mx.test"), 100)))

    @pytest.mark.parametrize("host", ["mx.test", "a.mx.test"])
    def test_enforced(self, host: str) -> None:
        security = self.of(Mode.ENFORCE, host)
        assert security == Security(level=TLSPolicy.VERIFY, names=(host,))
        assert isinstance(security, Security)
        assert (security.source, security.is_trusted, security.may_be_clear) == ("mta-sts", True, False)
        assert security.applied.kind == "sts"
        assert security.applied.strings == (
            "version: STSv1", "mode: enforce", "mx: mx.test", "mx: *.mx.test", "max_age: 100",
        )  # fmt: skip

    @pytest.mark.parametrize("host", ["evil.test", "a.b.mx.test", "xmx.test", "test"])
    def test_enforced_with_a_host_that_is_not_named(self, host: str) -> None:
        barred = self.of(Mode.ENFORCE, host)
        assert isinstance(barred, Barred)
        assert (str(barred.route.status), barred.failure) == ("4.7.0", TLSFailure.VALIDATION_FAILURE)

    def test_testing_changes_nothing_and_reports(self) -> None:
        for host, flaw in (("mx.test", None), ("evil.test", TLSFailure.VALIDATION_FAILURE)):
            security = self.of(Mode.TESTING, host)
            assert isinstance(security, Security)
            assert (security.level, security.is_testing, security.may_be_clear) == (TLSPolicy.MAY, True, True)
            assert (security.is_trusted, security.flaw) == (False, flaw)

    def test_none(self) -> None:
        for security in (self.of(Mode.NONE), by_mta_sts("example.test", "mx.test", Standing())):
            assert security == Security(level=TLSPolicy.MAY, names=("mx.test",))
            assert isinstance(security, Security)
            assert security.applied == AppliedPolicy("no-policy-found", "example.test")

    def test_one_that_could_not_be_had(self) -> None:
        security = by_mta_sts("example.test", "mx.test", Standing(None, TLSFailure.STS_POLICY_FETCH_ERROR, "timeout"))
        assert isinstance(security, Security)
        assert (security.level, security.flaw) == (TLSPolicy.MAY, TLSFailure.STS_POLICY_FETCH_ERROR)
        assert security.applied == AppliedPolicy("sts", "example.test")


@pytest.mark.parametrize("level", list(TLSPolicy))
def test_a_level_that_is_set_is_trusted_when_it_is_verified(level: TLSPolicy) -> None:
    for is_trusted in (True, False):
        security = by_setting(level, "mx.test", "example.test", is_trusted=is_trusted)
        assert security.is_trusted is (is_trusted and level is TLSPolicy.VERIFY)
