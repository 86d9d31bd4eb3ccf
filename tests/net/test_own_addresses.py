"""Which connections would come to ourselves: the kernel is asked, and sends nothing."""

from __future__ import annotations

import socket

import pytest

from mailstack.net import own_addresses
from mailstack.net.own_addresses import OwnAddresses, is_of_this_machine

OURS = {"198.51.100.1", "2001:db8::2"}


@pytest.mark.parametrize(
    ("listeners", "address", "port", "expected"),
    [
        ([("198.51.100.1", 25)], "198.51.100.1", 25, True),
        ([("198.51.100.1", 25)], "::ffff:198.51.100.1", 25, True),
        ([("198.51.100.1", 25)], "198.51.100.1", 26, False),
        ([("198.51.100.1", 25)], "198.51.100.2", 25, False),
        ([("127.0.0.1", 25)], "198.51.100.1", 25, False),
        ([("0.0.0.0", 25)], "198.51.100.1", 25, True),
        ([("0.0.0.0", 25)], "198.51.100.2", 25, False),
        ([("0.0.0.0", 2525)], "198.51.100.1", 25, False),
        ([("::", 25)], "2001:db8::2", 25, True),
        ([("::", 25)], "2001:0db8:0::2", 25, True),
        ([("::", 25)], "198.51.100.1", 25, False),
        ([("0.0.0.0", 25)], "2001:db8::2", 25, False),
        ([("0.0.0.0", 25), ("::", 25)], "::ffff:198.51.100.1", 25, True),
        ([("127.0.0.1", 0)], "127.0.0.1", 0, False),
        ([], "198.51.100.1", 25, False),
    ],
)
def test_where_we_listen(listeners, address, port, expected):
    assert OwnAddresses(listeners, OURS.__contains__)(address, port) is expected


def test_the_kernel_is_asked_only_of_our_port():
    def ask(address):
        raise AssertionError(address)

    assert not OwnAddresses([("0.0.0.0", 25)], ask)("198.51.100.1", 465)


class TestThisMachine:
    @pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
    def test_what_always_is(self, address):
        assert is_of_this_machine(address)

    @pytest.mark.parametrize("address", ["192.0.2.77", "203.0.113.9", "2001:db8::77", "8.8.8.8"])
    def test_what_never_is(self, address):
        assert not is_of_this_machine(address)

    def test_an_address_of_an_interface(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))
            except OSError:
                pytest.skip("this machine has no address but loopback")
            address = probe.getsockname()[0]
        assert is_of_this_machine(address)

    def test_where_every_address_can_be_bound_that_says_nothing(self, monkeypatch):
        monkeypatch.setattr(own_addresses, "_can_bind", lambda family, address: True)
        assert not is_of_this_machine("203.0.113.9")
        assert is_of_this_machine("127.0.0.1")

    def test_how_it_speaks_to_itself(self):
        assert own_addresses._speaks_to_itself(socket.AF_INET, "127.0.0.1")
        assert not own_addresses._speaks_to_itself(socket.AF_INET, "203.0.113.9")
