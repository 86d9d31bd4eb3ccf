"""Values that are valid to a lenient reader, and cost or mean more than they should."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mailstack.mail.address import AddressError, parse_address, parse_domain
from mailstack.mail.headers import HEADER_OCTETS, count_fields


@pytest.mark.parametrize("literal", ["[IPv6:fe80::1%lo]", "[IPv6:2606:4700::1111%a]", "[IPv6:::1%1]"])
def test_an_address_literal_has_no_zone(literal: str) -> None:
    # A zone means something on one machine only (RFC 4007 §11), and RFC 5321 §4.1.3 knows none.
    with pytest.raises(AddressError):
        parse_domain(literal)
    with pytest.raises(AddressError):
        parse_address(f"a@{literal}")


def least_seconds(walk: Callable[[], object]) -> float:
    """Return the processor time of the best of some runs, which the rest of the machine hardly changes."""

    def run() -> float:
        began = time.process_time()
        walk()
        return time.process_time() - began

    return min(run() for _ in range(5))


@pytest.mark.parametrize(
    "section",
    [b"received" * 30_000 + b": x\r\n", b"received: x" + b"\r\n x" * 60_000 + b"\r\n"],
    ids=["one long name", "one field of many folds"],
)
def test_a_hostile_header_section_costs_no_more_than_an_honest_one(section: bytes) -> None:
    honest = (b"X-Field: " + b"x" * 120 + b"\r\n") * 1_900
    assert len(section) <= HEADER_OCTETS
    assert least_seconds(lambda: count_fields(section, b"received")) < 3 * least_seconds(
        lambda: count_fields(honest, b"received")
    )
