"""Binding raises at once and names what is taken."""

import pytest

from mailstack.net.listeners import ListenError, bind


def test_a_taken_port_is_named() -> None:
    first = bind("127.0.0.1", 0)
    with pytest.raises(ListenError, match=f"cannot listen on 127.0.0.1 port {first.port}: Address already in use"):
        bind("127.0.0.1", first.port)
    assert str(first) == f"127.0.0.1:{first.port}"
    first.socket.close()


def test_an_address_of_somebody_else() -> None:
    with pytest.raises(ListenError, match=r"cannot listen on 192\.0\.2\.1 port 2525"):
        bind("192.0.2.1", 2525)


def test_both_families_share_a_port() -> None:
    six = bind("::1", 0)
    four = bind("127.0.0.1", six.port)
    assert str(six) == f"[::1]:{six.port}"
    six.socket.close()
    four.socket.close()
