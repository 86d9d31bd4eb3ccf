"""Whether we are who listens at an address."""

from __future__ import annotations

import pytest

from mailstack.net.own_addresses import OwnListeners, is_of_this_machine


@pytest.mark.parametrize(("address", "is_ours"), [("127.0.0.1", True), ("127.9.9.9", True), ("192.0.2.1", False)])
def test_addresses_of_this_machine(address: str, is_ours: bool) -> None:
    assert is_of_this_machine(address) is is_ours


@pytest.mark.parametrize("address", ["2001:db8::1", "::ffff:192.0.2.1"])
def test_of_ipv6_too(address: str) -> None:
    assert not is_of_this_machine(address)


@pytest.mark.parametrize(
    ("listeners", "address", "port", "is_ours"),
    [
        ([("192.0.2.1", 25)], "192.0.2.1", 25, True),
        ([("192.0.2.1", 25)], "192.0.2.1", 2525, False),
        ([("192.0.2.1", 25)], "192.0.2.2", 25, False),
        ([("2001:db8::1", 25)], "2001:DB8:0::1", 25, True),
        ([("0.0.0.0", 25)], "127.0.0.1", 25, True),
        ([("0.0.0.0", 25)], "127.0.0.1", 26, False),
        ([("0.0.0.0", 25)], "192.0.2.1", 25, False),
        ([("::", 25)], "127.0.0.1", 25, False),
        ([("::", 25)], "2001:db8::1", 25, False),
        ([("0.0.0.0", 26), ("192.0.2.1", 25)], "127.0.0.1", 25, False),
        ([], "127.0.0.1", 25, False),
    ],
)
def test_listeners(listeners: list[tuple[str, int]], address: str, port: int, is_ours: bool) -> None:
    assert OwnListeners(listeners)(address, port) is is_ours
