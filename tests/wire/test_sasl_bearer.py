"""Tokens: the messages of OAUTHBEARER and XOAUTH2, and what is none."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.wire.errors import SaslError
from mailstack.wire.sasl import Challenge
from mailstack.wire.sasl_bearer import TOKEN_OCTETS, Bearer, OAuthBearerExchange, XOAuth2Exchange, refusal_challenge

# RFC 7628 §4.1 and §4.2
EXAMPLE = (
    b"bixhPXVzZXJAZXhhbXBsZS5jb20sAWhvc3Q9c2VydmVyLmV4YW1wbGUuY29tAXBvcnQ9MTQzAWF1dGg9QmVhcmVyIHZGOWRmdDRxbVRjMk52YjNSbG"
    b"NrQmhiSFJoZG1semRHRXVZMjl0Q2c9PQEB"
)


def encoded(octets: bytes) -> bytes:
    return base64.b64encode(octets)


def test_the_example_of_the_rfc() -> None:
    said = OAuthBearerExchange().step(EXAMPLE)
    assert said == Bearer(b"user@example.com", b"vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==")
    assert "vF9" not in repr(said)


def test_without_a_name_the_token_says_who_it_is() -> None:
    assert OAuthBearerExchange().step(encoded(b"n,,\1auth=Bearer abc\1\1")) == Bearer(b"", b"abc")


def test_names_may_hold_commas_and_other_letters() -> None:
    said = OAuthBearerExchange().step(encoded("n,a=j=2Cö=3Dx,\1auth=bearer abc\1\1".encode()))
    assert said == Bearer("j,ö=x".encode(), b"abc")


def test_xoauth2() -> None:
    said = XOAuth2Exchange().step(
        encoded("user=jö@example.org\1auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGE\1\1".encode())
    )
    assert said == Bearer("jö@example.org".encode(), b"ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGE")


@pytest.mark.parametrize("make", [OAuthBearerExchange, XOAuth2Exchange])
def test_the_message_is_asked_for(make) -> None:
    assert make().step(None) == Challenge(b"")


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\1\1",
        b"n,,",
        b"n,,\1\1",
        b"n,,\1auth=Bearer abc",
        b"n,,\1auth=Bearer abc\1",
        b"n,,\1auth=Bearer abc\1\1\1",
        b"n,,\1auth=Bearer abc\1\1x",
        b"n,,\1host=x\1\1",
        b"n,,\1auth=Basic abc\1\1",
        b"n,,\1auth=Bearer\1\1",
        b"n,,\1auth=Bearer a b\1\1",
        b"n,,\1auth=Bearer \xff\1\1",
        b"n,,\1auth=Bearer a\1auth=Bearer b\1\1",
        b"n,,\1auth\1\1",
        b"n,,\1=x\1auth=Bearer abc\1\1",
        b"p=tls-exporter,,\1auth=Bearer abc\1\1",
        b"x,,\1auth=Bearer abc\1\1",
        b"n,b=x,\1auth=Bearer abc\1\1",
        b"n,a=x=2,\1auth=Bearer abc\1\1",
        b"n,a=\xff,\1auth=Bearer abc\1\1",
        b"n,a=a\nb,\1auth=Bearer abc\1\1",
        b"n,a=" + b"x" * 300 + b",\1auth=Bearer abc\1\1",
        b"n,,\1auth=Bearer " + b"x" * (TOKEN_OCTETS + 1) + b"\1\1",
    ],
)
def test_what_is_no_message(message: bytes) -> None:
    with pytest.raises(SaslError):
        OAuthBearerExchange().step(encoded(message))


@pytest.mark.parametrize(
    "message", [b"", b"user=a\1\1", b"user=a\1auth=Bearer x\1", b"user=a\nb\1auth=Bearer x\1\1", b"a\1auth=Bearer x\1\1"]
)
def test_what_is_no_message_of_xoauth2(message: bytes) -> None:
    with pytest.raises(SaslError):
        XOAuth2Exchange().step(encoded(message))


@given(octets=st.binary(max_size=200))
@pytest.mark.parametrize("make", [OAuthBearerExchange, XOAuth2Exchange])
def test_anything_is_a_token_or_an_error(make, octets: bytes) -> None:
    for line in (octets, encoded(octets), encoded(b"n,a=" + octets + b",\1auth=Bearer abc\1\1")):
        try:
            said = make().step(line)
        except SaslError:
            continue
        assert isinstance(said, Bearer)
        assert b"\0" not in said.username + said.token


def test_why_a_token_is_refused() -> None:
    assert json.loads(refusal_challenge().octets) == {"status": "invalid_token"}
