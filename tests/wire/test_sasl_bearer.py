"""Tokens: the messages of OAUTHBEARER and XOAUTH2, what is none, and what is said of one that is refused."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.errors import SaslCancelledError, SaslError, SaslMalformedError, SaslRefusedError
from mailstack.wire.limits import SASL_OCTETS
from mailstack.wire.sasl import TOKEN_OCTETS, Bearer, Challenge
from mailstack.wire.sasl_bearer import BearerExchange, OAuthBearerExchange, XOAuth2Exchange

# RFC 7628 §4.1
EXAMPLE = (
    b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbG"
    b"NrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
)
# RFC 7628 §4.3: without a token
EMPTY = b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9AQE="
# https://developers.google.com/workspace/gmail/imap/xoauth2-protocol
GOOGLES = (
    b"dXNlcj1zb21ldXNlckBleGFtcGxlLmNvbQFhdXRoPUJlYXJlciB5YTI5LnZGOWRmdDRxbVRjMk52YjNSbGNrQmhkSFJoZG1semRHRXVZMjl0Q2cBAQ=="
)

both = pytest.mark.parametrize("make", [OAuthBearerExchange, XOAuth2Exchange])


def encoded(octets: bytes) -> bytes:
    return base64.b64encode(octets)


def test_the_example_of_the_rfc() -> None:
    said = OAuthBearerExchange().step(EXAMPLE)
    assert said == Bearer(b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==", b"user@example.com")
    assert "vF9" not in repr(said)


def test_the_example_of_google() -> None:
    said = XOAuth2Exchange().step(GOOGLES)
    assert said == Bearer(b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg", b"someuser@example.com")


def test_without_a_name_the_token_says_who_it_is() -> None:
    for message in (b"n,,\1auth=Bearer abc\1\1", b"y,,\1auth=Bearer abc\1\1"):
        assert OAuthBearerExchange().step(encoded(message)) == Bearer(b"abc")
    assert XOAuth2Exchange().step(encoded(b"user=\1auth=Bearer abc\1\1")) == Bearer(b"abc")


def test_names_may_hold_commas_and_other_letters() -> None:
    said = OAuthBearerExchange().step(encoded("n,a=j=2Cö=3Dx=3D2C,\1auth=bearer abc\1\1".encode()))
    assert said == Bearer(b"abc", "j,ö=x=2C".encode())
    said = XOAuth2Exchange().step(encoded("user=jö@example.org\1auth=Bearer a.b\1\1".encode()))
    assert said == Bearer(b"a.b", "jö@example.org".encode())


def test_a_token_may_be_long_and_still_fits_a_line() -> None:
    message = b"n,a=%b,\1host=%b\1port=587\1auth=Bearer %b\1\1" % (b"x" * 255, b"h" * 255, b"t" * TOKEN_OCTETS)
    assert len(encoded(message)) <= SASL_OCTETS
    assert isinstance(OAuthBearerExchange().step(encoded(message)), Bearer)


@both
def test_the_message_is_asked_for(make: type[BearerExchange]) -> None:
    assert make().step(None) == Challenge(b"")


NO_MESSAGES = [
    b"",
    b"\1",
    b"\1\1",
    b"{}",
    b"{}\1auth=Bearer abc",
    b"{}\1auth=Bearer abc\1",
    b"{}\1auth=Bearer abc\1\1\1",
    b"{}\1auth=Bearer abc\1\1x",
    b"{}\1auth=Bearer\1\1",
    b"{}\1auth=Bearer \1\1",
    b"{}\1auth=Bearer a b\1\1",
    b"{}\1auth=Bearer  a\1\1",
    b"{}\1auth=Bearer a=b\1\1",
    b"{}\1auth=Bearer =\1\1",
    b"{}\1auth=Bearer a\n\1\1",
    b"{}\1auth=Bearer \xff\1\1",
    b"{}\1auth=Bearer a\0\1\1",
    b"{}\1auth=Bearer a\1auth=Bearer b\1\1",
    b"{}\1auth=Bearer a\1AUTH=Bearer a\1\1",
    b"{}\1auth\1\1",
    b"{}\1=x\1auth=Bearer abc\1\1",
    b"{}\1x y=x\1auth=Bearer abc\1\1",
    b"{}\1x=\xff\1auth=Bearer abc\1\1",
    b"{}\1auth=Bearer " + b"x" * (TOKEN_OCTETS + 1) + b"\1\1",
]


@both
@pytest.mark.parametrize("message", NO_MESSAGES)
def test_what_is_no_message(make: type[BearerExchange], message: bytes) -> None:
    head = b"n,a=alice," if make is OAuthBearerExchange else b"user=alice"
    with pytest.raises(SaslMalformedError):
        make().step(encoded(message.replace(b"{}", head)))


@pytest.mark.parametrize(
    "header",
    [
        b"n",
        b"n,",
        b"n,a=x",
        b"n,,,",
        b"x,,",
        b"p=tls-exporter,,",
        b"n,b=x,",
        b"n,a=,",
        b"n,x,",
        b"n,a=x=2,",
        b"n,a=x=2c,",
        b"n,a=\xff,",
        b"n,a=a\nb,",
        b"n,a=a\0,",
        b"n,a=" + b"x" * 256 + b",",
        b"user=alice",
    ],
)
def test_what_is_no_gs2_header(header: bytes) -> None:
    with pytest.raises(SaslMalformedError):
        OAuthBearerExchange().step(encoded(header + b"\1auth=Bearer abc\1\1"))


@pytest.mark.parametrize("user", [b"", b"users=a", b"user", b"user=a\nb", b"user=\xff", b"user=" + b"x" * 256, b"n,a=x,"])
def test_what_is_no_user_of_xoauth2(user: bytes) -> None:
    with pytest.raises(SaslMalformedError):
        XOAuth2Exchange().step(encoded(user + b"\1auth=Bearer abc\1\1"))


@both
@given(octets=st.binary(max_size=200))
def test_anything_is_a_token_or_an_error(make: type[BearerExchange], octets: bytes) -> None:
    for line in (octets, encoded(octets), encoded(b"n,a=" + octets + b",\1auth=Bearer abc\1\1"), encoded(b"user=" + octets)):
        try:
            said = make().step(line)
        except SaslError:
            continue
        assert isinstance(said, Bearer) or said == make().refuse()
        if isinstance(said, Bearer):
            assert b"\0" not in said.authorization_id + said.token


class TestRefusal:
    @both
    @pytest.mark.parametrize("line", [b"AQ==", b"", b"=", b"nonsense", b"AQ" * 20_000])
    def test_it_is_over_when_the_client_has_answered_whatever_it_says(self, make: type[BearerExchange], line: bytes) -> None:
        exchange = make()
        exchange.step(EXAMPLE if make is OAuthBearerExchange else GOOGLES)
        exchange.refuse()
        with pytest.raises(SaslRefusedError):
            exchange.step(line)

    def test_but_it_may_still_be_cancelled(self) -> None:
        exchange = OAuthBearerExchange()
        exchange.refuse()
        with pytest.raises(SaslCancelledError):
            exchange.step(b"*")

    def test_what_the_client_is_told(self) -> None:
        assert json.loads(OAuthBearerExchange().refuse().octets) == {"status": "invalid_token"}
        assert json.loads(OAuthBearerExchange('mail "x').refuse().octets) == {"status": "invalid_token", "scope": 'mail "x'}
        assert json.loads(XOAuth2Exchange("mail").refuse().octets) == {"status": "401", "schemes": "bearer", "scope": "mail"}

    @pytest.mark.parametrize("message", [b"n,,\1\1", b"n,,\1host=x\1\1", b"n,,\1auth=\1\1", b"n,,\1auth=Basic abc\1\1"])
    def test_who_shows_no_token_learns_what_is_wanted(self, message: bytes) -> None:
        exchange = OAuthBearerExchange("mail")
        assert exchange.step(encoded(message)) == OAuthBearerExchange("mail").refuse()
        with pytest.raises(SaslRefusedError):
            exchange.step(b"AQ==")

    def test_the_example_of_the_rfc(self) -> None:
        assert OAuthBearerExchange("example_scope").step(EMPTY) == Challenge(
            b'{"status": "invalid_token", "scope": "example_scope"}'
        )
