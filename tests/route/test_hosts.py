from __future__ import annotations

import time

import pytest

from mailstack.mail.answers import Empty, Exchange, Failed, Found, NoSuchDomain
from mailstack.route.hosts import Hop, NoRoute, exchanges_of, hops_of, is_public, literal_hop


def in_order(equals):
    return list(equals)


def of(answer, domain="example.test", own_name="us.test", shuffle=in_order):
    return exchanges_of(domain, answer, own_name=own_name, shuffle=shuffle)


def mx(*pairs):
    return Found(tuple(Exchange(preference, host) for preference, host in pairs))


class TestExchanges:
    def test_lower_preference_first(self):
        assert of(mx((20, "b.test"), (10, "a.test"), (30, "c.test"))) == ("a.test", "b.test", "c.test")

    def test_equals_are_shuffled_within_their_preference(self):
        answer = mx((10, "a.test"), (10, "b.test"), (5, "first.test"), (20, "c.test"), (20, "d.test"))
        assert of(answer, shuffle=lambda equals: equals[::-1]) == ("first.test", "b.test", "a.test", "d.test", "c.test")

    def test_a_host_that_is_named_twice_is_tried_once(self):
        assert of(mx((10, "a.test"), (20, "a.test"))) == ("a.test",)

    def test_no_mx_means_the_domain_itself(self):
        assert of(Empty()) == ("example.test",)

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            (Failed("SERVFAIL"), "4.4.3"),
            (NoSuchDomain(), "5.1.2"),
            (mx((0, "")), "5.1.10"),
            (mx((0, "10.0.0.1"), (1, "[10.0.0.1]"), (2, "a b"), (3, "-oProxy\\032x")), "5.4.4"),
            (mx((10, "us.test")), "5.4.6"),
            (mx((10, "us.test"), (10, "equal.test"), (20, "worse.test")), "5.4.6"),
        ],
    )
    def test_no_route(self, answer, status):
        route = of(answer)
        assert isinstance(route, NoRoute)
        assert str(route.status) == status
        assert route.diagnostic.isascii()

    def test_only_a_failed_lookup_is_temporary(self):
        assert not of(Failed("x")).status.is_permanent
        assert of(Failed("timeout")).cause == "timeout"

    def test_a_null_mx_beside_others_is_left_out(self):
        assert of(mx((0, ""), (10, "a.test"))) == ("a.test",)

    def test_own_host_cuts_off_itself_and_worse(self):
        assert of(mx((5, "better.test"), (10, "us.test"), (10, "equal.test"), (20, "worse.test"))) == ("better.test",)

    def test_own_host_as_implicit_mx_loops(self):
        assert str(of(Empty(), domain="us.test").status) == "5.4.6"

    def test_thousands_of_hosts_take_no_time(self):
        began = time.perf_counter()
        assert len(of(mx(*((n % 9, f"h{n % 20_000}.test") for n in range(40_000))))) == 20_000
        assert time.perf_counter() - began < 5

    def test_what_stands_behind_thousands_counts(self):
        """A zone must not hide the best of its hosts, nor that we are one."""
        many = [(20, f"h{n}.test") for n in range(4000)]
        assert of(mx(*many, (5, "best.test"), (10, "us.test"))) == ("best.test",)
        assert of(mx(*many, (20, "us.test"))).status.is_permanent
        assert of(mx(*many, (30, "us.test"), (5, "best.test")))[:2] == ("best.test", "h0.test")


class TestHops:
    def test_families_take_turns_six_first(self):
        hops = hops_of("mx.test", Found(("2600::1", "2600::2", "2600::3")), Found(("8.8.8.8",)), allow_private=False)
        assert hops == tuple(Hop("mx.test", each) for each in ("2600::1", "8.8.8.8", "2600::2", "2600::3"))

    def test_one_family_suffices_when_the_other_failed(self):
        assert hops_of("mx.test", Failed("x"), Found(("8.8.8.8",)), allow_private=False) == (Hop("mx.test", "8.8.8.8"),)

    @pytest.mark.parametrize(
        ("ipv6", "ipv4", "status"),
        [
            (Empty(), Empty(), "5.4.4"),
            (NoSuchDomain(), NoSuchDomain(), "5.4.4"),
            (Failed("x"), Empty(), "4.4.3"),
            (Empty(), Failed("x"), "4.4.3"),
            (Found(("::1",)), Found(("127.0.0.1", "10.1.1.1")), "5.4.6"),
            (Found(("fe80::1",)), Failed("x"), "4.4.3"),
            (Failed("x"), Found(("10.0.0.1",)), "4.4.3"),
        ],
    )
    def test_no_route(self, ipv6, ipv4, status):
        assert str(hops_of("mx.test", ipv6, ipv4, allow_private=False).status) == status

    def test_private_ones_may_be_allowed(self):
        assert hops_of("mx.test", Empty(), Found(("127.0.0.1",)), allow_private=True) == (Hop("mx.test", "127.0.0.1"),)

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "224.0.0.1",
            "255.255.255.255", "100.64.0.1", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
            "64:ff9b::127.0.0.1", "2002:7f00:1::", "240.0.0.1", "fec0::1", "::127.0.0.1", "::ffff:0:10.0.0.1",
            "64:ff9b:1::10.0.0.1",
        ],
    )  # fmt: skip
    def test_not_public(self, address):
        assert not is_public(address)

    @pytest.mark.parametrize("address", ["8.8.8.8", "2600::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
    def test_public(self, address):
        assert is_public(address)

    def test_literals(self):
        assert literal_hop("[192.0.2.1]") == Hop("[192.0.2.1]", "192.0.2.1")
        assert literal_hop("[IPv6:2001:db8::1]") == Hop("[IPv6:2001:db8::1]", "2001:db8::1")
