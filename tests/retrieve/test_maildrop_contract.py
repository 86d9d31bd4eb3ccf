"""What every maildrop must do: the one in memory that tests use, the store's in a thread, and a mailbox of Twisted's kind."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pop3_fakes import House, MemoryMaildrop, OneRealm
from twisted.internet.defer import Deferred, fail, succeed
from twisted.mail.interfaces import IMailboxPOP3
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailstack.mail.crlf import with_crlf
from mailstack.retrieve.interfaces import IMaildrop
from mailstack.retrieve.mailbox import MailboxMaildrop
from mailstack.retrieve.settle import settled
from mailstack.retrieve.threaded import ThreadedMaildrop
from mailstack.store.cached import KernelCache
from mailstack.store.maildrop import Maildrop

CONTENTS = [b"a: b\r\n\r\n.one\r\n", b"", b"x" * 300_000 + b"\r\n.\r\n"]


@implementer(IMailboxPOP3)
class TwistedMailbox:
    """A mailbox as `twisted.mail.pop3` wants one: LF line ends, deletions marked until sync; answers at once or later."""

    def __init__(self, contents: list[bytes], *, later: bool = False) -> None:
        self.contents: list[bytes | None] = [content.replace(b"\r\n", b"\n") for content in contents]
        self.marked: set[int] = set()
        self.later = later
        self.files: list[io.BytesIO] = []
        self.faults: dict[str, Exception] = {}

    def _answer(self, name: str, value: Any) -> Any:
        if name in self.faults:
            if self.later:
                return fail(self.faults[name])
            raise self.faults[name]
        return succeed(value) if self.later else value

    def listMessages(self, index: int | None = None) -> Any:
        return self._answer("listMessages", [len(content or b"") for content in self.contents])

    def getMessage(self, index: int) -> Any:
        content = self.contents[index]
        if content is None:
            return self._answer("getMessage", None) if "getMessage" in self.faults else self._raise(index)
        self.files.append(io.BytesIO(content))
        return self._answer("getMessage", self.files[-1])

    def _raise(self, index: int) -> Any:
        raise IndexError(index)

    def getUidl(self, index: int) -> Any:
        return self._answer("getUidl", b"uid-%d" % (index + 1))

    def deleteMessage(self, index: int) -> Any:
        if (fault := self.faults.get(f"deleteMessage {index}")) is not None:
            raise fault
        self.marked.add(index)
        return self._answer("deleteMessage", None)

    def undeleteMessages(self) -> Any:
        self.marked.clear()

    def sync(self) -> Any:
        for index in self.marked:
            self.contents[index] = None
        return self._answer("sync", None)


def in_memory(folder: Path) -> IMaildrop:
    return MemoryMaildrop(*CONTENTS)


class WarmCache:
    """Has every file in memory, and every second chunk of a long one."""

    def works_on(self, descriptor: int) -> bool:
        return True

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDONLY)

    def read(self, descriptor: int, octets: int, offset: int) -> bytes | None:
        return None if offset and offset // 262_144 % 2 == 0 else os.pread(descriptor, octets, offset)


def stored(folder: Path, cache: Any = None) -> IMaildrop:
    (folder / "new").mkdir()
    for number, content in enumerate(CONTENTS, 1):
        (folder / "new" / f"{number}.a.b").write_bytes(content.replace(b"\r\n", b"\n"))

    def hop(function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return succeed(function(*arguments))

    return ThreadedMaildrop(Maildrop.open(folder, now=lambda: 0.0, cache=cache or KernelCache(None)), hop)


def stored_in_memory(folder: Path) -> IMaildrop:
    return stored(folder, WarmCache())


def twisted_mailbox(folder: Path) -> IMaildrop:
    return MailboxMaildrop(TwistedMailbox(CONTENTS))


def twisted_mailbox_that_answers_later(folder: Path) -> IMaildrop:
    return MailboxMaildrop(TwistedMailbox(CONTENTS, later=True))


MAKERS = [in_memory, stored, stored_in_memory, twisted_mailbox, twisted_mailbox_that_answers_later]


def now(answer: Any) -> Any:
    """Return what is answered without waiting."""
    outcome: list[Any] = []
    Deferred.fromCoroutine(settled(answer)).addCallbacks(outcome.append, lambda failure: outcome.append(failure.value))
    (value,) = outcome
    if isinstance(value, Exception):
        raise value
    return value


def whole(drop: Any, index: int) -> bytes | None:
    found = now(drop.read(index))
    if found is None or isinstance(found, bytes):
        return found
    chunks = []
    while chunk := now(found.read()):
        assert len(chunk) <= 600_000
        chunks.append(chunk)
    assert now(found.read()) == b""
    found.close()
    return b"".join(chunks)


@pytest.mark.parametrize("make", MAKERS)
def test_it_lists_reads_and_removes(make: Callable[[Path], Any], tmp_path: Path) -> None:
    drop = make(tmp_path)
    verifyObject(IMaildrop, drop)
    listing = now(drop.listing())
    assert len(listing) == 3
    assert len({uid for _, uid in listing}) == 3
    assert all(isinstance(uid, bytes) for _, uid in listing)
    if "mailbox" not in make.__name__:
        assert [octets for octets, _ in listing] == [len(content) for content in CONTENTS]
    assert [whole(drop, index) for index in range(3)] == CONTENTS
    assert whole(drop, 2) == CONTENTS[2]
    assert now(drop.commit({0, 2})) == 0


@pytest.mark.parametrize("make", MAKERS)
def test_a_session_on_it_is_the_same(make: Callable[[Path], Any], tmp_path: Path) -> None:
    house = House(realm=OneRealm(make(tmp_path)))
    client = house.log_in()
    assert client.say(b"RETR 1\r\n").endswith(b"\r\na: b\r\n\r\n..one\r\n.\r\n")
    assert client.say(b"RETR 2\r\n").endswith(b"\r\n.\r\n")
    assert client.say(b"RETR 3\r\n").endswith(b"x\r\n..\r\n.\r\n")
    assert client.say(b"TOP 1 0\r\n").endswith(b"\r\na: b\r\n\r\n.\r\n")
    assert client.say(b"DELE 1\r\nQUIT\r\n").endswith(b"+OK Bye\r\n")


@pytest.mark.parametrize("later", [False, True])
def test_a_plain_mailbox_is_served_as_an_avatar(later: bool) -> None:
    mailbox = TwistedMailbox([b"a: b\r\n\r\nx\r\n", b"c: d\r\n\r\ny\r\n"], later=later)
    house = House(realm=OneRealm(mailbox, IMailboxPOP3))
    client = house.log_in()
    assert client.say(b"UIDL\r\nRETR 2\r\n").endswith(b"+OK Message follows\r\nc: d\r\n\r\ny\r\n.\r\n")
    client.say(b"DELE 1\r\nDELE 2\r\nRSET\r\nDELE 2\r\n")
    assert mailbox.marked == set()
    assert client.say(b"QUIT\r\n") == b"+OK Bye\r\n"
    assert mailbox.contents == [b"a: b\n\nx\n", None]
    assert all(file.closed for file in mailbox.files)


@pytest.mark.parametrize("later", [False, True])
def test_a_mailbox_that_cannot_sync_makes_quit_fail(later: bool) -> None:
    mailbox = TwistedMailbox([b"x\r\n"], later=later)
    mailbox.faults["sync"] = OSError(30, "read-only")
    client = House(realm=OneRealm(mailbox, IMailboxPOP3)).log_in()
    assert client.say(b"DELE 1\r\nQUIT\r\n").endswith(b"-ERR [SYS/TEMP] some deleted messages not removed\r\n")


def test_one_message_that_a_mailbox_cannot_delete_keeps_no_other() -> None:
    mailbox = TwistedMailbox([b"x\r\n"] * 3)
    mailbox.faults["deleteMessage 1"] = OSError(1, "immutable")
    drop = MailboxMaildrop(mailbox)
    assert now(drop.commit({0, 1, 2})) == 1
    assert mailbox.contents == [None, b"x\n", None]


def test_a_message_that_a_mailbox_does_not_have_is_gone() -> None:
    mailbox = TwistedMailbox([b"x\r\n"])
    mailbox.contents[0] = None
    assert now(MailboxMaildrop(mailbox).read(0)) is None


@pytest.mark.parametrize("later", [False, True])
def test_a_mailbox_that_cannot_list_refuses_the_login_for_now(later: bool) -> None:
    mailbox = TwistedMailbox([b"x\r\n"], later=later)
    mailbox.faults["getUidl"] = RuntimeError("no index")
    realm = OneRealm(mailbox, IMailboxPOP3)
    client = House(realm=realm).connect()
    client.hear()
    assert client.say(b"USER alice\r\nPASS sec ret\r\n").endswith(b"-ERR [SYS/TEMP] Local error, try again later\r\n")
    assert realm.logouts == 1


@pytest.mark.parametrize("uid", [b"abc", "abc", b"a" * 70, b"a" * 71, b"a b", "ü", b""])
def test_an_id_that_pop3_cannot_carry_is_hashed(uid: bytes | str) -> None:
    given = {"abc": b"abc", b"abc": b"abc", b"a" * 70: b"a" * 70}.get(uid)
    mailbox = TwistedMailbox([b"x\r\n"])
    mailbox.getUidl = lambda index: uid  # type: ignore[method-assign]  # somebody's idea of an id
    ((_, shown),) = now(MailboxMaildrop(mailbox).listing())
    assert shown == given if given else (len(shown) == 32 and shown.isalnum())


def test_a_file_with_mixed_line_ends_is_sent_with_crlf() -> None:
    mailbox = TwistedMailbox([])
    content = b"a\r\nb\nc\rd" + b"x" * 65_530 + b"\r\n.\n"
    mailbox.contents = [content]
    assert whole(MailboxMaildrop(mailbox), 0) == with_crlf(content)
