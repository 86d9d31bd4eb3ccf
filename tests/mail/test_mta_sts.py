from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailstack.mail.mta_sts import Mode, Policy, PolicyError, parse_policy, parse_record

LINES = (
    b"version: STSv1", b"mode: enforce", b"mx: mail.example.com", b"mx: *.example.net", b"mx: backupmx.example.com",
    b"max_age: 604800",
)  # fmt: skip
POLICY = b"".join(line + b"\r\n" for line in LINES)


class TestRecord:
    @pytest.mark.parametrize(
        "text",
        [
            b"v=STSv1; id=20160831085700Z;",
            b"v=STSv1;id=20160831085700Z",
            b"v=STSv1 ; \t id=20160831085700Z ; more=is:ignored;",
            b"v=STSv1; a=b; id=20160831085700Z; id=second",
        ],
    )
    def test_one(self, text: bytes) -> None:
        assert parse_record([b"v=spf1 -all", text]) == "20160831085700Z"

    @pytest.mark.parametrize(
        "texts",
        [
            [],
            [b"v=STSv1"],
            [b"v=STSv1;"],
            [b"v=stsv1; id=1"],
            [b"v=STSv2; id=1"],
            [b" v=STSv1; id=1"],
            [b"v=STSv1; id="],
            [b"v=STSv1; id=a-b"],
            [b"v=STSv1; id=" + b"a" * 33],
            [b"v=STSv1; id=1; nonsense"],
            [b"v=STSv1; id=\xff"],
            [b"v=STSv1; id=1", b"v=STSv1; id=1"],
            [b"v=STSv1; id=1\n"],
        ],
    )
    def test_none(self, texts: list[bytes]) -> None:
        assert parse_record(texts) is None


class TestPolicy:
    @pytest.mark.parametrize("end", [b"\r\n", b"\n"])
    def test_the_example_of_the_rfc(self, end: bytes) -> None:
        policy = parse_policy(POLICY.replace(b"\r\n", end))
        assert policy == Policy(Mode.ENFORCE, ("mail.example.com", "*.example.net", "backupmx.example.com"), 604_800)

    def test_it_is_written_as_it_is_read(self) -> None:
        policy = parse_policy(POLICY)
        assert parse_policy("\n".join(policy.lines()).encode()) == policy

    @pytest.mark.parametrize(
        ("octets", "expected"),
        [
            (b"mx: MX.Example.COM.\nmax_age:0\nmode:testing\nversion:STSv1", Policy(Mode.TESTING, ("mx.example.com",), 0)),
            (b"version: STSv1\nmode: none\nmax_age: 9999999999\n\n \n", Policy(Mode.NONE, (), 31_557_600)),
            (b"version: STSv1  \nmode: none\t\nmax_age: 60 \nx-more: \xc3\xbc", Policy(Mode.NONE, (), 60)),
            (b"version: STSv1\nmode: none\nmode: enforce\nmax_age: 60\nmax_age: 61", Policy(Mode.NONE, (), 60)),
        ],
    )
    def test_others(self, octets: bytes, expected: Policy) -> None:
        assert parse_policy(octets) == expected

    @pytest.mark.parametrize(
        "octets",
        [
            b"",
            POLICY.replace(b"STSv1", b"STSv2"),
            POLICY.replace(b"version: STSv1\r\n", b""),
            POLICY.replace(b"enforce", b"Enforce"),
            POLICY.replace(b"enforce", b"strict"),
            POLICY.replace(b"604800", b""),
            POLICY.replace(b"604800", b"-1"),
            POLICY.replace(b"604800", b"1e9"),
            POLICY.replace(b"604800", b"99999999999"),
            POLICY.replace(b"604800", "٣".encode()),
            POLICY.replace(b"mail.example.com", b""),
            POLICY.replace(b"mail.example.com", b"*"),
            POLICY.replace(b"mail.example.com", b"*.*.example.com"),
            POLICY.replace(b"mail.example.com", b"mail.*.com"),
            POLICY.replace(b"mail.example.com", b"[192.0.2.1]"),
            POLICY.replace(b"mail.example.com", b"192.0.2.1"),
            POLICY.replace(b"mail.example.com", b"a b"),
            b"version: STSv1\nmode: enforce\nmax_age: 60\n",
            POLICY + b"no colon\n",
            POLICY + b"\xff: x\n",
            POLICY + b"mx: x.test\n" * 300,
            POLICY + b"x: y\n" * 20_000,
            POLICY.replace(b"\r\n", b"\r"),
            b"<html>404</html>",
        ],
    )
    def test_not_one(self, octets: bytes) -> None:
        with pytest.raises(PolicyError):
            parse_policy(octets)

    @given(st.binary(max_size=200))
    def test_whatever_comes(self, octets: bytes) -> None:
        for text in (octets, POLICY + octets):
            try:
                policy = parse_policy(text)
            except PolicyError:
                continue
            assert parse_policy("\n".join(policy.lines()).encode()) == policy

    def test_a_wildcard_is_one_label(self) -> None:
        policy = parse_policy(POLICY)
        matching = [name for name in ("a.example.net", "example.net", "a.b.example.net", "net") if policy.matches(name)]
        assert matching == ["a.example.net"]
