"""Transports: what an operator may write, and which entry counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.address import parse_address
from mailstack.mail.status import EnhancedStatus
from mailstack.route.transport import (
    Discard,
    Error,
    Hold,
    Lmtp,
    Local,
    Mx,
    Smtp,
    TransportError,
    TransportMap,
    parse_pattern,
    parse_transport,
)


class TestTransport:
    @pytest.mark.parametrize(
        ("text", "transport"),
        [
            ("mx", Mx()),
            ("local", Local()),
            ("hold", Hold()),
            ("discard", Discard()),
            ("smtp:[relay.example.net]:587", Smtp("relay.example.net", 587)),
            ("smtp:[relay.example.net]", Smtp("relay.example.net", 25)),
            ("smtp:[Relay.Example.NET.]", Smtp("relay.example.net", 25)),
            ("smtp:[localhost]:2525", Smtp("localhost", 2525)),
            ("smtp:[192.0.2.1]:2525", Smtp("192.0.2.1", 2525)),
            ("smtp:[2001:DB8::1]:2525", Smtp("2001:db8::1", 2525)),
            ("smtp:[IPv6:2001:db8::1]", Smtp("2001:db8::1", 25)),
            ("smtp:example.net", Smtp("example.net", 25, by_mx=True)),
            ("smtp:bücher.example:26", Smtp("xn--bcher-kva.example", 26, by_mx=True)),
            ("lmtp:127.0.0.1:24", Lmtp("127.0.0.1", 24)),
            ("lmtp:[::1]:2424", Lmtp("::1", 2424)),
            ("lmtp:::1", Lmtp("::1", 24)),
            ("lmtp:dovecot.example.net", Lmtp("dovecot.example.net", 24)),
            ("lmtp:unix:/run/dovecot/lmtp", Lmtp("/run/dovecot/lmtp", 0)),
            ("lmtp:unix:/odd path:24", Lmtp("/odd path:24", 0)),
            ("error: 5.1.6 Write to b@example.org", Error(EnhancedStatus(5, 1, 6), "Write to b@example.org")),
            ("error:5.7.1 No", Error(EnhancedStatus(5, 7, 1), "No")),
            ("error: 4.3.2 We are moving ", Error(EnhancedStatus(4, 3, 2), "We are moving")),
        ],
    )
    def test_good(self, text, transport):
        assert parse_transport(text) == transport
        assert parse_transport(str(transport)) == transport

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is no transport"),
            ("MX", "is no transport"),
            ("mx:", "is no transport"),
            ("discard:", "is no transport"),
            ("relay:[a.test]", "is no transport"),
            ("a.test:25", "is no transport"),
            ("smtp:", "names no host: nothing"),
            ("smtp:[]", "names no host: nothing"),
            ("smtp:[[192.0.2.1]]", "names no host: [192.0.2.1]"),
            ("smtp:[a.test", "names no host: [a.test"),
            ("smtp:a b", "names no host: a b"),
            ("smtp:a.test:", "names no host"),
            ("smtp:[a.test]:x", "names no host"),
            ("smtp:[a.test]:0", "has a port that does not exist: 0"),
            ("smtp:[a.test]:65536", "has a port that does not exist: 65536"),
            ("smtp:192.0.2.1", "must have the IP address in brackets: smtp:[192.0.2.1]"),
            ("smtp:192.0.2.1:25", "must have the IP address in brackets: smtp:[192.0.2.1]"),
            ("smtp:[fe80::1%eth0]", "names no host"),
            ("smtp:[192.0.2.1\r\nQUIT]", "names no host: 192.0.2.1??QUIT"),
            ("lmtp:", "names no host"),
            ("lmtp:unix:", "must name the socket by its whole path"),
            ("lmtp:unix:lmtp", "must name the socket by its whole path"),
            ("lmtp:unix:/a\0b", "must name the socket by its whole path"),
            ("lmtp:unix:/" + "x" * 107, "has a longer path than the 107 octets"),
            ("error:", "must be text of the form"),
            ("error: 5.1.1", "must be text of the form"),
            ("error: 2.0.0 fine", "must be text of the form"),
            ("error: 5.1 no", "must be text of the form"),
            ("error: 550 no", "must be text of the form"),
            ("error: 5.7.1 a\r\nb", "must be text of the form"),
            ("error: 5.7.1 nö", "must be text of the form"),
            ("error: 5.7.1 " + "x" * 201, "must be text of the form"),
        ],
    )
    def test_bad(self, text, said):
        with pytest.raises(TransportError) as caught:
            parse_transport(text)
        assert str(caught.value).startswith(said)
        assert str(caught.value).isprintable()

    @given(st.text(max_size=60) | st.from_regex(r"(smtp|lmtp|error):[\[\]a-z0-9.: ]{0,30}", fullmatch=True))
    def test_any_text_is_one_or_is_refused(self, text):
        try:
            transport = parse_transport(text)
        except TransportError:
            return
        assert parse_transport(str(transport)) == transport

    def test_the_reply_of_an_error(self):
        assert str(Error(EnhancedStatus(5, 1, 6), "Moved").reply) == "550 5.1.6 Moved"
        assert str(Error(EnhancedStatus(4, 3, 2), "Moving").reply) == "450 4.3.2 Moving"


class TestPattern:
    @pytest.mark.parametrize(
        ("text", "pattern"),
        [
            ("*", "*"),
            ("Example.ORG.", "example.org"),
            (".Example.org", ".example.org"),
            ("Alice@Example.org", "alice@example.org"),
            ('"alice"@example.org', "alice@example.org"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("bücher.example", "xn--bcher-kva.example"),
        ],
    )
    def test_good(self, text, pattern):
        assert parse_pattern(text) == pattern

    @pytest.mark.parametrize(
        "text", ["", ".", "@", "*.example.org", "*@example.org ", "a b", "alice@", "..org", ".[192.0.2.1]"]
    )
    def test_bad(self, text):
        with pytest.raises(TransportError):
            parse_pattern(text)


def map_of(*entries, **more):
    return TransportMap({parse_pattern(each): Smtp(f"h{number}") for number, each in enumerate(entries)}, **more)


def found(transports, address, *, is_ours=False):
    transport = transports.of(parse_address(address), is_ours=is_ours)
    return None if transport is None else transport.host


class TestMap:
    ALL = map_of("alice+tag@a.test", "alice@a.test", "a.test", ".a.test", ".sub.a.test", "*", "[192.0.2.1]")

    @pytest.mark.parametrize(
        ("address", "host"),
        [
            ("Alice+TAG@a.test", "h0"),
            ("alice@a.test", "h1"),
            ("ALICE+other@A.test", "h1"),
            ("alicia@a.test", "h2"),
            ("x@b.a.test", "h3"),
            ("x@c.b.a.test", "h3"),
            ("x@sub.a.test", "h3"),
            ("x@b.sub.a.test", "h4"),
            ("x@ba.test", "h5"),
            ("x@test", "h5"),
            ("x@[192.0.2.1]", "h6"),
            ("x@[192.0.2.2]", "h5"),
        ],
    )
    def test_the_most_specific_stands(self, address, host):
        assert found(self.ALL, address) == host

    def test_the_entry_for_every_domain_is_not_for_ours(self):
        assert found(self.ALL, "x@b.test", is_ours=True) is None
        assert found(self.ALL, "x@b.a.test", is_ours=True) == "h3"

    def test_subaddresses_as_the_directory_has_them(self):
        assert found(map_of("alice@a.test", delimiter="-"), "alice-x@a.test") == "h0"
        assert found(map_of("alice@a.test", delimiter="-"), "alice+x@a.test") is None
        assert found(map_of("alice@a.test", delimiter=""), "alice+x@a.test") is None
        assert found(map_of("alice@a.test"), "+x@a.test") is None

    def test_no_entries(self):
        assert TransportMap().of(parse_address("x@a.test"), is_ours=False) is None

    @pytest.mark.parametrize(
        ("address", "is_taken"),
        [
            ("shop@here.test", True),
            ("shop+x@here.test", True),
            ("other@here.test", False),
            ("anybody@open.test", True),
            ("kept@open.test", False),
            ("x@closed.test", False),
            ("x@nothing.test", False),
        ],
    )
    def test_who_is_taken_without_being_in_the_directory(self, address, is_taken):
        elsewhere = Smtp("a")
        entries = dict.fromkeys(["shop@here.test", "open.test", "closed.test", "*"], elsewhere) | {"kept@open.test": Local()}
        transports = TransportMap(entries, open_domains={"open.test", "nothing.test"})
        assert transports.is_taken(parse_address(address)) is is_taken
