"""A POP3 session over a transport."""

from __future__ import annotations

from typing import Any

import pytest
from pop3_fakes import House, MemoryMaildrop, OneRealm
from twisted.internet.defer import Deferred
from twisted.internet.testing import EventLoggingObserver
from twisted.logger import globalLogPublisher

from mailstack.mail.maildrop import MaildropLocked

FIRST = b"a: b\r\n\r\n.one\r\ntwo\r\n"
SECOND = b"c: d\r\n\r\nbody\r\n"


def test_a_whole_session() -> None:
    house = House(FIRST, SECOND)
    client = house.log_in()
    assert client.has_no_delay
    assert client.say(b"STAT\r\n") == b"+OK 2 33\r\n"
    assert client.say(b"LIST\r\n") == b"+OK 2 messages (33 octets)\r\n1 19\r\n2 14\r\n.\r\n"
    assert client.say(b"LIST 2\r\n") == b"+OK 2 14\r\n"
    assert client.say(b"UIDL\r\n") == b"+OK Unique ids follow\r\n1 uid-1\r\n2 uid-2\r\n.\r\n"
    assert client.say(b"UIDL 1\r\n") == b"+OK 1 uid-1\r\n"
    assert client.say(b"RETR 1\r\n") == b"+OK 19 octets\r\na: b\r\n\r\n..one\r\ntwo\r\n.\r\n"
    assert client.say(b"TOP 1 1\r\n") == b"+OK Top of message follows\r\na: b\r\n\r\n..one\r\n.\r\n"
    assert client.say(b"DELE 1\r\n") == b"+OK Marked for deletion\r\n"
    assert client.say(b"QUIT\r\n") == b"+OK Bye\r\n"
    assert house.maildrop.committed == [{0}]
    assert client.was_closed
    assert not client.was_aborted
    assert house.realm.logouts == 1
    assert len(house.factory) == 0
    assert len(house.supervisor) == 0


def test_each_small_reply_is_one_write() -> None:
    client = House(FIRST, SECOND).log_in()
    for command in (b"RETR 1", b"LIST", b"UIDL", b"TOP 1 0", b"STAT"):
        client.writes.clear()
        client.say(command + b"\r\n")
        assert len(client.writes) == 1, command


def test_replies_to_commands_that_came_together_are_one_write() -> None:
    client = House(FIRST, SECOND).log_in()
    client.writes.clear()
    heard = client.say(b"LIST 1\r\nUIDL 1\r\nSTAT\r\nNOOP\r\n")
    assert heard == b"+OK 1 19\r\n+OK 1 uid-1\r\n+OK 2 33\r\n+OK Nothing done\r\n"
    assert len(client.writes) == 1


def test_what_was_said_before_a_command_that_waits_does_not_wait_with_it() -> None:
    house = House(FIRST)
    client = house.log_in()
    house.maildrop.held = True
    assert client.say(b"STAT\r\nRETR 1\r\n") == b"+OK 1 19\r\n"
    house.maildrop.release()
    assert client.hear().startswith(b"+OK 19 octets\r\n")


def test_a_marked_message_is_refused_and_absent_until_rset() -> None:
    client = House(FIRST, SECOND).log_in()
    client.say(b"DELE 1\r\n")
    for command in (b"RETR 1", b"LIST 1", b"UIDL 1", b"TOP 1 0", b"DELE 1"):
        assert client.say(command + b"\r\n") == b"-ERR Message is deleted\r\n"
    assert client.say(b"LIST\r\nUIDL\r\nSTAT\r\n") == (
        b"+OK 1 messages (14 octets)\r\n2 14\r\n.\r\n+OK Unique ids follow\r\n2 uid-2\r\n.\r\n+OK 1 14\r\n"
    )
    assert client.say(b"RSET\r\n") == b"+OK 2 messages (33 octets)\r\n"
    assert client.say(b"LIST 1\r\n") == b"+OK 1 19\r\n"


@pytest.mark.parametrize("command", [b"RETR", b"LIST", b"UIDL", b"DELE", b"TOP"])
@pytest.mark.parametrize("number", [b"0", b"3", b"-1", b"99999999999999999999", b"x"])
def test_a_wrong_number_is_refused_and_nothing_is_deleted(command: bytes, number: bytes) -> None:
    house = House(FIRST, SECOND)
    client = house.log_in()
    heard = client.say(command + b" " + number + (b" 1" if command == b"TOP" else b"") + b"\r\n")
    assert heard.startswith(b"-ERR ")
    assert heard.count(b"\r\n") == 1
    assert client.say(b"QUIT\r\n") == b"+OK Bye\r\n"
    assert house.maildrop.committed == [set()]


def test_pipelined_commands_are_answered_in_order_whatever_waits() -> None:
    house = House(FIRST, SECOND)
    client = house.log_in()
    house.maildrop.held = True
    assert client.say(b"STAT\r\nRETR 2\r\nSTAT\r\nDELE 2\r\nQUIT\r\n") == b"+OK 2 33\r\n"
    house.maildrop.release()
    assert client.hear() == b"+OK 14 octets\r\n" + SECOND + b".\r\n+OK 2 33\r\n+OK Marked for deletion\r\n+OK Bye\r\n"
    assert house.maildrop.committed == [{1}]


def test_commands_behind_pass_wait_for_the_login() -> None:
    house = House(FIRST)
    house.realm.logging_in = Deferred()
    client = house.connect()
    client.hear()
    assert client.say(b"USER alice\r\nPASS sec ret\r\nSTAT\r\nQUIT\r\n") == b"+OK Send PASS\r\n"
    house.realm.logging_in.callback(None)
    assert client.hear() == b"+OK 1 messages (19 octets)\r\n+OK 1 19\r\n+OK Bye\r\n"


def test_twenty_thousand_pipelined_commands_need_no_stack() -> None:
    house = House(FIRST)
    client = house.log_in()
    heard = client.say(b"NOOP\r\nRETR 1\r\n" * 10_000)
    while house.clock.getDelayedCalls()[0].getTime() == house.clock.seconds():  # the others have their turn
        house.clock.advance(0)
        heard += client.hear()
    assert heard.count(b"+OK 19 octets\r\n") == 10_000


@pytest.mark.parametrize("size", [65_537, 262_144, 262_145, 1_000_000])
def test_a_large_message_comes_whole(size: int) -> None:
    content = b"a: b\r\n\r\n" + b".x\r\n" * (size // 4)
    house = House(content)
    client = house.log_in()
    heard = client.say(b"RETR 1\r\nSTAT\r\n")
    assert heard == b"+OK Message follows\r\na: b\r\n\r\n" + b"..x\r\n" * (size // 4) + b".\r\n+OK 1 %d\r\n" % len(content)
    assert client.say(b"TOP 1 2\r\n") == b"+OK Top of message follows\r\na: b\r\n\r\n..x\r\n..x\r\n.\r\n"
    assert [reader.is_closed for reader in house.maildrop.readers] == [True, True]


def test_an_empty_message_is_a_message() -> None:
    assert House(b"").log_in().say(b"RETR 1\r\nTOP 1 5\r\n") == b"+OK 0 octets\r\n.\r\n+OK Top of message follows\r\n.\r\n"


def test_a_message_that_is_gone_fails_alone() -> None:
    house = House(FIRST, SECOND)
    house.maildrop.gone.add(0)
    client = house.log_in()
    heard = client.say(b"RETR 1\r\nTOP 1 1\r\nSTAT\r\n")
    assert heard == b"-ERR Message is no longer there\r\n" * 2 + b"+OK 2 33\r\n"


def test_a_message_that_cannot_be_read_is_a_temporary_error() -> None:
    house = House(FIRST)
    client = house.log_in()
    house.maildrop.faults["read"] = OSError(5, "bad disk /var/mail/alice")
    assert client.say(b"RETR 1\r\nSTAT\r\n") == b"-ERR [SYS/TEMP] Local error, try again later\r\n+OK 1 19\r\n"


def test_a_message_that_fails_in_the_middle_ends_the_connection_without_its_end() -> None:
    house = House(b"x" * 299_998 + b"\r\n")
    client = house.log_in()
    client.protocol._flow.pauseProducing()
    client.protocol._flow.resumeProducing()
    original = house.maildrop.read

    async def read(index: int) -> object:
        reader = await original(index)
        del reader.chunks[1:]
        chunks = iter(reader.chunks)
        reader.read = lambda: next(chunks)
        return reader

    house.maildrop.read = read  # type: ignore[method-assign,assignment]  # a disk that fails after the first chunk
    heard = client.say(b"RETR 1\r\nSTAT\r\n")
    assert heard.startswith(b"+OK")
    assert not heard.endswith(b".\r\n")
    assert client.was_aborted
    assert house.maildrop.readers[0].is_closed
    assert house.maildrop.committed == []


def test_quit_reports_what_was_not_removed() -> None:
    house = House(FIRST, SECOND)
    house.maildrop.failing = 1
    client = house.log_in()
    heard = client.say(b"DELE 1\r\nQUIT\r\nSTAT\r\n")
    assert heard == b"+OK Marked for deletion\r\n-ERR [SYS/TEMP] some deleted messages not removed\r\n"
    assert client.was_closed


def test_quit_that_fails_is_reported_the_same() -> None:
    house = House(FIRST)
    client = house.log_in()
    house.maildrop.faults["commit"] = OSError(30, "read-only")
    assert client.say(b"DELE 1\r\nQUIT\r\n").endswith(b"-ERR [SYS/TEMP] some deleted messages not removed\r\n")
    assert client.was_closed
    assert house.realm.logouts == 1


def test_the_ok_of_quit_comes_after_the_removal_and_after_the_lock() -> None:
    house = House(FIRST)
    client = house.log_in()
    house.maildrop.held = True
    seen: list[int] = []
    write = client.write

    def note(octets: bytes) -> None:
        seen.append(house.realm.logouts)
        write(octets)

    client.write = note  # type: ignore[method-assign]  # to see the order
    assert client.say(b"QUIT\r\n") == b""
    house.maildrop.release()
    assert client.hear() == b"+OK Bye\r\n"
    assert seen == [1]


def test_quit_before_login_touches_no_maildrop() -> None:
    house = House(FIRST)
    client = house.connect()
    assert client.say(b"QUIT\r\n").endswith(b"+OK Bye\r\n")
    assert house.maildrop.committed == []
    assert client.was_closed


def test_a_failed_login_says_the_same_for_every_cause_and_late() -> None:
    house = House(FIRST)
    client = house.connect()
    client.hear()
    for attempt in (b"USER alice\r\nPASS wrong\r\n", b"USER nobody\r\nPASS sec ret\r\n"):
        client.say(attempt)
        assert b"-ERR" not in client.hear()
        house.clock.advance(1.9)
        assert client.hear() == b""
        house.clock.advance(0.2)
        assert client.hear() == b"-ERR [AUTH] Authentication failed\r\n"
    client.say(b"AUTH PLAIN AGFsaWNlAHg=\r\nSTAT\r\n")
    house.clock.advance(2)
    assert client.hear() == b"-ERR [AUTH] Authentication failed\r\n"
    assert client.was_closed
    assert len(house.factory) == 0


def test_one_may_log_in_after_a_failure() -> None:
    house = House(FIRST)
    client = house.connect()
    client.say(b"USER alice\r\nPASS wrong\r\n")
    house.clock.advance(2)
    assert client.say(b"USER alice\r\nPASS sec ret\r\n").endswith(b"+OK 1 messages (19 octets)\r\n")


def test_a_maildrop_in_use_is_said_so_and_counts_not_as_a_failure() -> None:
    house = House(FIRST)
    house.realm.fault = MaildropLocked("/var/mail/alice")
    client = house.connect()
    client.hear()
    for _ in range(4):
        heard = client.say(b"USER alice\r\nPASS sec ret\r\n")
        assert heard == b"+OK Send PASS\r\n-ERR [IN-USE] Another session has the maildrop open\r\n"
    house.realm.fault = None
    assert client.say(b"USER alice\r\nPASS sec ret\r\n").endswith(b"+OK 1 messages (19 octets)\r\n")


@pytest.mark.parametrize("where", ["realm", "listing"])
def test_any_other_failure_of_a_login_is_temporary_and_gives_back(where: str) -> None:
    house = House(FIRST)
    if where == "realm":
        house.realm.fault = OSError(2, "/var/mail is not there")
    else:
        house.maildrop.faults["listing"] = OSError(5, "bad disk")
    client = house.connect()
    client.hear()
    heard = client.say(b"USER alice\r\nPASS sec ret\r\n")
    assert heard == b"+OK Send PASS\r\n-ERR [SYS/TEMP] Local error, try again later\r\n"
    assert house.realm.logouts == (1 if where == "listing" else 0)
    assert client.say(b"STAT\r\n") == b"-ERR Command not valid in this state\r\n"


def test_the_log_follows_a_session_and_knows_no_password() -> None:
    observer = EventLoggingObserver.createWithCleanup(_Cleanup(), globalLogPublisher)
    try:
        house = House(FIRST)
        client = house.connect()
        client.say(b"USER alice\r\nPASS not this\r\n")
        house.clock.advance(2)
        client.say(b"USER alice\r\nPASS sec ret\r\nXYZ\r\nDELE 1\r\nQUIT\r\n")
    finally:
        globalLogPublisher.removeObserver(observer)
    logged = [entry for entry in observer if entry.get("session") == "s1"]
    assert [entry["event"] for entry in logged] == [
        "session_opened", "authentication_failed", "authenticated", "maildrop_opened", "command_refused", "maildrop_closed",
        "session_closed",
    ]  # fmt: skip
    assert logged[-2]["deleted"] == 1
    assert logged[-1]["reason"] == "quit"
    assert "sec ret" not in repr(logged)
    assert "not this" not in repr(logged)


class _Cleanup:
    def addCleanup(self, *_: object) -> None:
        """Nothing: the test does it."""


def test_a_realm_that_gives_a_maildrop_needs_no_more() -> None:
    realm = OneRealm(MemoryMaildrop(SECOND))
    assert House(realm=realm).log_in().say(b"STAT\r\n") == b"+OK 1 14\r\n"


class PromptMaildrop(MemoryMaildrop):
    """Answers at once, without anything to wait for."""

    def read(self, index: int) -> Any:
        self._fail("read")
        return None if index in self.gone else self.contents[index]


def test_a_message_that_is_there_at_once_is_sent_at_once_and_in_one_write() -> None:
    maildrop = PromptMaildrop(FIRST, b"", b".dots\r\n..\r\n.\r\n", b"no end")
    client = House(realm=OneRealm(maildrop)).log_in()
    client.writes.clear()
    heard = client.say(b"RETR 1\r\nRETR 2\r\nRETR 3\r\nRETR 4\r\nTOP 3 1\r\n")
    assert heard == (
        b"+OK 19 octets\r\na: b\r\n\r\n..one\r\ntwo\r\n.\r\n"
        b"+OK 0 octets\r\n.\r\n"
        b"+OK 14 octets\r\n..dots\r\n...\r\n..\r\n.\r\n"
        b"+OK 6 octets\r\nno end\r\n.\r\n"
        b"+OK Top of message follows\r\n..dots\r\n...\r\n..\r\n.\r\n"
    )
    assert len(client.writes) == 1
    maildrop.gone.add(0)
    assert client.say(b"RETR 1\r\n") == b"-ERR Message is no longer there\r\n"


def test_a_maildrop_that_fails_at_once_fails_for_this_command_only() -> None:
    maildrop = PromptMaildrop(FIRST)
    client = House(realm=OneRealm(maildrop)).log_in()
    maildrop.faults["read"] = OSError(5, "bad disk")
    assert client.say(b"RETR 1\r\nSTAT\r\n") == b"-ERR [SYS/TEMP] Local error, try again later\r\n+OK 1 19\r\n"
    maildrop.faults.clear()
    assert client.say(b"RETR 1\r\n").startswith(b"+OK 19 octets\r\n")
