"""The nameserver of the bench answers as one."""

from __future__ import annotations

import dns.message
import pytest

from bench.nameserver import answer


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("d17.living.test", "MX", ["10 mx.living.test."]),
        ("n3.new.test", "MX", ["10 mx.living.test."]),
        ("mx.living.test", "A", ["127.0.0.1"]),
        ("mx.living.test", "AAAA", []),
        ("d4999.dead.test", "MX", []),
        ("d4999.dead.test", "A", ["127.2.19.250"]),
        ("d4999.dead.test", "AAAA", []),
        ("example.test", "A", []),
    ],
)
def test_answers(name: str, kind: str, expected: list[str]) -> None:
    query = dns.message.make_query(name, kind, use_edns=0)
    found = answer(query.to_wire())
    assert found is not None
    message = dns.message.from_wire(found)
    assert query.is_response(message)
    assert [str(record) for rrset in message.answer for record in rrset] == expected


def test_what_is_no_query_has_none() -> None:
    assert answer(b"") is None
    response = dns.message.make_response(dns.message.make_query("example.test", "A"))
    assert answer(response.to_wire()) is None
