from __future__ import annotations

import pytest

from mailstack.directory.records import (
    DirectoryError,
    account_name,
    alias_name,
    base_of,
    domain_name,
    key_of,
)
from mailstack.mail.address import Address
from mailstack.store.folders import MailFolder


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("alice@example.org", "alice@example.org"),
        ("Alice.B@EXAMPLE.org.", "alice.b@example.org"),
        ("a_b+c=d-e@x", "a_b+c=d-e@x"),
        ('"alice"@example.org', "alice@example.org"),
        ("a" * 64 + "@x.test", "a" * 64 + "@x.test"),
    ],
)
def test_account_names(text: str, name: str) -> None:
    assert account_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "alice",
        "@x",
        "alice@",
        ".alice@x",
        "alice.@x",
        "a..b@x",
        '".."@x',
        '"."@x',
        '".hidden"@x',
        '"a..b"@x',
        '"a/b"@x',
        "a/b@x",
        '"a b"@x',
        "a*b@x",
        "*@x",
        "älice@x",
        "alice@[127.0.0.1]",
        "alice@..",
        "alice@a/b",
        "alice@_x",
        "alice@-x",
        "alice@b\u200fcher.test",
        "a" * 65 + "@x",
        "alice@x\n",
        "alice\0@x",
        "Kelvin\u212a@x",
    ],
)
def test_no_account_can_have_such_a_name(text: str) -> None:
    with pytest.raises(DirectoryError):
        account_name(text)


@pytest.mark.parametrize("text", ["alice@example.org", "a.b+c@x-1.test", "=@x", "-@x"])
def test_every_account_has_a_folder_within_the_mail_folder(text: str) -> None:
    path = MailFolder("/mail").path_of(account_name(text))
    assert path.parent.parent.as_posix() == "/mail"


def test_an_international_domain_is_kept_as_the_dns_has_it() -> None:
    assert domain_name("Bücher.test") == "xn--bcher-kva.test"
    assert account_name("Alice@bücher.TEST") == "alice@xn--bcher-kva.test"


@pytest.mark.parametrize(
    ("text", "name"),
    [("Sales@X.test", "sales@x.test"), ("*@x.test", "*@x.test"), ('"odd name"@x.test', '"odd name"@x.test')],
)
def test_alias_names(text: str, name: str) -> None:
    assert alias_name(text) == name


@pytest.mark.parametrize("text", ["sales", "@x", "sales@[127.0.0.1]", "sales@_x"])
def test_no_alias_can_have_such_a_name(text: str) -> None:
    with pytest.raises(DirectoryError):
        alias_name(text)


def test_addresses_are_compared_in_lower_case() -> None:
    assert key_of(Address("ALICE", "x.test")) == "alice@x.test"


@pytest.mark.parametrize(
    ("local_part", "delimiter", "base"),
    [
        ("alice+tag", "+", "alice"),
        ("alice+", "+", "alice"),
        ("alice+a+b", "+", "alice"),
        ("alice", "+", None),
        ("+tag", "+", None),
        ("alice+tag", "", None),
        ("alice-tag", "-", "alice"),
    ],
)
def test_subaddresses(local_part: str, delimiter: str, base: str | None) -> None:
    found = base_of(Address(local_part, "x"), delimiter)
    assert (found.local_part if found else None) == base
