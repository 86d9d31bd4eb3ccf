"""What a peer asks by the extensions, as it stands in the envelope; and contents that come by BDAT."""

from __future__ import annotations

from typing import Any

from receive_fakes import House, Session
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail.envelope import BodyType, Service
from mailstack.mail.requests import NO_REQUESTS, Notify, OriginalRecipient, Requests, Return
from mailstack.mail.verdict import defer, reject
from mailstack.wire.limits import Limits

NOW = 1_000_000_000.0


def accept(mail: str, *rcpt: str, content: str = "Subject: x\r\n\r\ntext\r\n.", **more: Any) -> Any:
    """Return the envelope of a message that was taken."""
    house = House(**more)
    session = house.connect()
    codes = session.say("EHLO c", mail, *(rcpt or ("RCPT TO:<bob@example.org>",)), "DATA", content)
    assert codes[-1] == "250", codes
    [(envelope, _)] = house.intake.accepted
    return envelope


class RequestTests(SynchronousTestCase):
    def test_who_asks_for_nothing(self) -> None:
        envelope = accept("MAIL FROM:<a@example.com> SIZE=10 BODY=8BITMIME")
        self.assertEqual(envelope.requests, NO_REQUESTS)
        self.assertFalse(envelope.smtputf8)
        self.assertIsNone(envelope.recipients[0].notify)

    def test_dsn(self) -> None:
        envelope = accept(
            "MAIL FROM:<a@example.com> RET=HDRS ENVID=QQ+20314",
            "RCPT TO:<both@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Both+2Bx@example.org",
            "RCPT TO:<carol@example.org> NOTIFY=NEVER",
        )
        self.assertEqual(envelope.requests, Requests(returns=Return.HEADERS, envelope_id="QQ 314"))
        self.assertEqual(
            [(each.address.local_part, each.notify, each.original_recipient) for each in envelope.recipients],
            [
                ("alice", frozenset((Notify.DELAY,)), OriginalRecipient("rfc822", "Both+x@example.org")),
                ("bob", frozenset((Notify.DELAY,)), OriginalRecipient("rfc822", "Both+x@example.org")),
                ("carol", frozenset((Notify.NEVER,)), None),
            ],
        )

    def test_an_alias_to_several_makes_one_notification_of_success(self) -> None:
        envelope = accept("MAIL FROM:<a@example.com>", "RCPT TO:<both@example.org> NOTIFY=SUCCESS")
        self.assertEqual([each.notify for each in envelope.recipients], [frozenset((Notify.NEVER,))] * 2)
        self.assertEqual([each.is_expanded for each in envelope.recipients], [True, False])
        envelope = accept("MAIL FROM:<a@example.com>", "RCPT TO:<both@example.org> NOTIFY=FAILURE")
        self.assertEqual([each.notify for each in envelope.recipients], [frozenset((Notify.FAILURE,))] * 2)
        self.assertEqual([each.is_expanded for each in envelope.recipients], [False, False])
        envelope = accept("MAIL FROM:<a@example.com>", "RCPT TO:<carol@example.org> NOTIFY=SUCCESS")
        self.assertEqual(
            [(each.notify, each.is_expanded) for each in envelope.recipients], [(frozenset((Notify.SUCCESS,)), False)]
        )

    def test_what_one_message_asked_is_not_asked_of_the_next(self) -> None:
        asked = "MAIL FROM:<a@example.com> RET=FULL ENVID=x SMTPUTF8 MT-PRIORITY=-3"
        rcpt = "RCPT TO:<bob@example.org> NOTIFY=NEVER ORCPT=rfc822;x@y"
        for between in (("RSET",), ("EHLO c",), ("DATA", "Subject: x\r\n\r\nb\r\n.")):
            house = House()
            session = house.connect()
            session.say("EHLO c", asked, rcpt, *between)
            session.say("MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>", "DATA", "Subject: \xe9\r\n\r\nb\r\n.")
            envelope, _ = house.intake.accepted[-1]
            self.assertEqual(envelope.requests, NO_REQUESTS)
            self.assertIsNone(envelope.recipients[0].notify)
            self.assertIsNone(envelope.recipients[0].original_recipient)
            self.assertFalse(envelope.smtputf8)

    def test_a_stranger_may_only_let_others_go_first(self) -> None:
        self.assertEqual(accept("MAIL FROM:<a@example.com> MT-PRIORITY=5").requests.priority, 0)
        self.assertEqual(accept("MAIL FROM:<a@example.com> MT-PRIORITY=-5").requests.priority, -5)


class Utf8Tests(SynchronousTestCase):
    def test_only_what_needs_it_is_marked(self) -> None:
        asked = "MAIL FROM:<a@example.com> SMTPUTF8"
        for mail, rcpt, content, needs in (
            (asked, "bob@example.org", "Subject: x\r\n\r\nbüro\r\n.", False),
            (asked, "bob@example.org", "Subject: büro\r\n\r\nx\r\n.", True),
            (asked, "böb@example.org", "Subject: x\r\n\r\nx\r\n.", True),
            ("MAIL FROM:<ä@example.com> SMTPUTF8", "bob@example.org", "Subject: x\r\n\r\nx\r\n.", True),
            ("MAIL FROM:<a@example.com>", "bob@example.org", "Subject: büro\r\n\r\nx\r\n.", False),
        ):
            envelope = accept(mail, f"RCPT TO:<{rcpt}>", content=content)
            self.assertIs(envelope.smtputf8, needs, (mail, rcpt, content))


class HoldTests(SynchronousTestCase):
    def submit(self, parameter: str) -> tuple[list[str], House]:
        house = House(Service.SUBMISSIONS, portal=None, limits=Limits(hold_seconds=1_000))
        session = house.connect()
        session.protocol.handshakeCompleted()
        session.protocol._core._authenticated = True  # as if; how to come here is another test's
        codes = session.say("EHLO c", f"MAIL FROM:<a@example.com> {parameter}", "RCPT TO:<bob@example.org>", "DATA", "x\r\n.")
        return codes, house

    def test_for_and_until(self) -> None:
        for parameter in ("HOLDFOR=500", "HOLDUNTIL=2001-09-09T01:55:00Z", "HOLDUNTIL=2001-09-09T03:55:00+02:00"):
            _, house = self.submit(parameter)
            [(envelope, _)] = house.intake.accepted
            self.assertEqual(envelope.requests.held_until, NOW + 500, parameter)
            self.assertEqual(envelope.due_at, NOW + 500)

    def test_a_time_that_has_passed(self) -> None:
        _, house = self.submit("HOLDUNTIL=2000-01-01T00:00:00Z")
        [(envelope, _)] = house.intake.accepted
        self.assertEqual(envelope.due_at, NOW)

    def test_too_long(self) -> None:
        for parameter in ("HOLDFOR=1001", "HOLDUNTIL=2030-01-01T00:00:00Z"):
            codes, house = self.submit(parameter)
            self.assertEqual(codes[2], "501", parameter)
            self.assertEqual(house.intake.accepted, [])


class ChunkTests(SynchronousTestCase):
    def begin(self, **more: Any) -> tuple[House, Session]:
        house = House(**more)
        session = house.connect()
        session.say("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>")
        return house, session

    def feed(self, session: Session, octets: bytes) -> list[str]:
        session.protocol.dataReceived(octets)
        return session.codes()

    def test_a_content_in_chunks_is_one_message(self) -> None:
        house, session = self.begin()
        self.assertEqual(self.feed(session, b"BDAT 12\r\nSubject: x\r\n"), ["250"])
        self.assertEqual(self.feed(session, b"BDAT 9 LAST\r\n\r\nte"), [])
        self.assertEqual(self.feed(session, b"xt\r\n."), ["250"])
        [(_, written)] = house.intake.accepted
        self.assertTrue(written.endswith(b"Subject: x\r\n\r\ntext\r\n.\r\n"), written)
        self.assertTrue(written.startswith(b"Received: "))

    def test_no_reply_before_the_octets_are_there(self) -> None:
        house, session = self.begin()
        self.assertEqual(self.feed(session, b"BDAT 4\r\n"), [])
        self.assertEqual(len(house.intake.drafts), 1)
        self.assertEqual(self.feed(session, b"abc"), [])
        self.assertEqual(self.feed(session, b"d"), ["250"])

    def test_many_chunks_are_not_too_many_commands(self) -> None:
        house, session = self.begin(limits=Limits(idle_commands=10))
        for _ in range(10):
            self.assertEqual(self.feed(session, b"BDAT 1\r\na" * 10), ["250"] * 10)
        self.assertEqual(self.feed(session, b"BDAT 0 LAST\r\n"), ["250"])
        self.assertTrue(house.intake.accepted[0][1].endswith(b"a" * 100 + b"\r\n"))

    def test_chunks_of_nothing_are_idle_commands(self) -> None:
        _, session = self.begin(limits=Limits(idle_commands=10))
        self.assertEqual(self.feed(session, b"BDAT 1\r\na"), ["250"])
        self.assertEqual(self.feed(session, b"BDAT 0\r\n" * 10), ["250"] * 9 + ["421"])  # the EHLO was one, too
        self.assertFalse(session.is_connected)

    def test_what_comes_behind_a_chunk_while_the_disk_is_slow_is_not_lost(self) -> None:
        house, session = self.begin()
        slow: Deferred[None] = Deferred()
        house.intake.slow = slow
        self.assertEqual(self.feed(session, b"BDAT 12 LAST\r\nA: b\r\n\r\ntext"), [])
        self.assertEqual(self.feed(session, b"MAIL FROM:<c@example.com>\r\nRCPT TO:<bob@example.org>\r\nNO"), [])
        house.intake.slow = None
        slow.callback(None)
        self.assertEqual(session.codes(), ["250", "250", "250"])
        self.assertEqual(self.feed(session, b"OP\r\n"), ["250"])
        self.assertTrue(house.intake.accepted[0][1].endswith(b"text\r\n"))

    def test_no_space_is_said_when_the_octets_have_come(self) -> None:
        house, session = self.begin()
        house.intake.full = True
        self.assertEqual(self.feed(session, b"BDAT 6 LAST\r\nQUI"), [])
        self.assertEqual(self.feed(session, b"T\r\nNOOP\r\n"), ["452", "250"])
        self.assertEqual(house.intake.drafts, [])

    def test_a_policy_that_refuses_the_content(self) -> None:
        for verdict, code in ((reject("spam"), "550"), (defer("later"), "451")):
            house, session = self.begin()
            house.judge.answers = {"content": verdict}
            self.assertEqual(self.feed(session, b"BDAT 3 LAST\r\na\r\n"), [code])
            self.assertTrue(house.intake.drafts[0].aborted)
            self.assertEqual(self.feed(session, b"MAIL FROM:<a@example.com>\r\n"), ["250"])

    def test_a_bare_newline_ends_the_transaction_with_its_chunk(self) -> None:
        house, session = self.begin()
        self.assertEqual(self.feed(session, b"BDAT 2\r\na\nBDAT 3 LAST\r\nb\r\n"), ["550", "503"])
        self.assertTrue(house.intake.drafts[0].aborted)
        self.assertEqual(house.intake.accepted, [])

    def test_a_reset_or_the_end_forgets_what_has_come(self) -> None:
        for more in (b"RSET\r\n", b"EHLO c\r\n", b"QUIT\r\n"):
            house, session = self.begin()
            self.feed(session, b"BDAT 3\r\na\r\n" + more)
            self.assertTrue(house.intake.drafts[0].aborted, more)
        house, session = self.begin()
        self.feed(session, b"BDAT 30\r\na\r\n")
        session.lose()
        self.assertTrue(house.intake.drafts[0].aborted)

    def test_a_slow_chunk_must_keep_pace(self) -> None:
        limits = Limits(content_seconds=100, content_octets_per_second=1, command_seconds=300)
        house, session = self.begin(limits=limits)
        self.feed(session, b"BDAT 100000\r\nx")
        house.clock.advance(101)
        self.assertEqual(session.codes(), ["421"])
        house, session = self.begin(limits=limits)
        self.feed(session, b"BDAT 100000\r\nx")
        for _ in range(10):
            self.feed(session, b"x" * 100)
            house.clock.advance(99)
            self.assertEqual(session.codes(), [])

    def test_between_chunks_the_next_command_has_its_time(self) -> None:
        house, session = self.begin(limits=Limits(content_seconds=100, command_seconds=300))
        self.feed(session, b"BDAT 1\r\nx")
        house.clock.advance(299)
        self.assertEqual(session.codes(), [])
        house.clock.advance(2)
        self.assertEqual(session.codes(), ["421"])

    def test_a_drain_waits_for_the_last_chunk(self) -> None:
        house, session = self.begin()
        self.feed(session, b"BDAT 1\r\nx")
        house.factory.drain()
        self.assertEqual(self.feed(session, b"BDAT 0 LAST\r\n"), ["250", "421"])

    def test_a_reply_for_each_recipient_in_lmtp(self) -> None:
        house = House(Service.LMTP)
        session = house.connect()
        session.say("LHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<alice@example.org>", "RCPT TO:<bob@example.org>")
        self.assertEqual(self.feed(session, b"BDAT 1\r\nxBDAT 0 LAST\r\n"), ["250", "250", "250"])

    def test_so_many_replies_too_where_the_first_chunk_is_the_last_and_is_refused(self) -> None:
        for octets, codes in ((b"BDAT 1 LAST\r\nx", ["452", "452"]), (b"BDAT 1\r\nx", ["452"])):
            house = House(Service.LMTP)
            session = house.connect()
            session.say("LHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<alice@example.org>", "RCPT TO:<bob@example.org>")
            house.intake.full = True
            self.assertEqual(self.feed(session, octets), codes)
            house.intake.full = False
            self.assertEqual(self.feed(session, b"DATA\r\nMAIL FROM:<>\r\n"), ["503", "250"])


BINARY = b"Subject: x\r\nContent-Transfer-Encoding: binary\r\n\r\n\x00\n.\r\n.\r\n"
STORED = b"Subject: x\r\nContent-Transfer-Encoding: base64\r\n\r\nAAouDQouDQo=\r\n"


class BinaryTests(SynchronousTestCase):
    def begin(self) -> tuple[House, Session]:
        house = House()
        session = house.connect()
        codes = session.say("EHLO c", "MAIL FROM:<a@example.com> BODY=BINARYMIME", "RCPT TO:<bob@example.org>")
        self.assertEqual(codes[1:], ["250"] * 3)
        return house, session

    def feed(self, session: Session, octets: bytes, *, last: bool = True) -> list[str]:
        session.protocol.dataReceived(b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"") + octets)
        return session.codes()

    def test_it_is_kept_in_base64_and_nobody_behind_is_told_that_it_was_binary(self) -> None:
        house, session = self.begin()
        self.assertEqual(self.feed(session, BINARY), ["250"])
        [(envelope, written)] = house.intake.accepted
        self.assertTrue(written.endswith(STORED), written)
        self.assertIs(envelope.body, BodyType.EIGHT_BIT_MIME)

    def test_octet_by_octet_too(self) -> None:
        house, session = self.begin()
        for octet in BINARY:
            self.assertEqual(self.feed(session, bytes((octet,)), last=False), ["250"])
        self.assertEqual(self.feed(session, b""), ["250"])
        self.assertTrue(house.intake.accepted[0][1].endswith(STORED))

    def test_what_has_no_binary_part_is_kept_as_it_came(self) -> None:
        house, session = self.begin()
        content = b"Subject: x\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xe9\x00\r\n"
        self.assertEqual(self.feed(session, content), ["250"])
        [(envelope, written)] = house.intake.accepted
        self.assertTrue(written.endswith(content))
        self.assertIs(envelope.body, BodyType.EIGHT_BIT_MIME)

    def test_a_policy_sees_what_will_be_kept(self) -> None:
        house, session = self.begin()
        self.feed(session, BINARY)
        [(_, (facts, content))] = [each for each in house.judge.asked if each[0] == "content"]
        self.assertEqual(facts.parameters["BODY"], "BINARYMIME")
        self.assertIn(b"Content-Transfer-Encoding: base64\r\n", facts.header)
        self.assertTrue(content.in_memory.endswith(STORED))

    def test_what_cannot_be_converted_leaves_nothing(self) -> None:
        house, session = self.begin()
        self.assertEqual(self.feed(session, b"Content-Type: multipart/x\r\n\r\n", last=False), ["554"])
        self.assertTrue(house.intake.drafts[0].aborted)
        self.assertEqual(self.feed(session, b""), ["503"])
        self.assertEqual(house.intake.accepted, [])

    def test_room_for_what_it_becomes_is_asked_for(self) -> None:
        asked: list[int] = []
        for parameters, octets in (("SIZE=5700 BODY=BINARYMIME", 7_800), ("SIZE=5700", 5_700), ("BODY=BINARYMIME", 0)):
            house = House()
            house.intake.refusal = asked.append  # type: ignore[method-assign, assignment]
            session = house.connect()
            session.say("EHLO c", f"MAIL FROM:<a@example.com> {parameters}", "RCPT TO:<bob@example.org>")
            self.feed(session, b"x", last=False)
            self.assertEqual(asked, [octets, octets])
            asked.clear()

    def test_the_next_message_of_the_session_is_not_binary(self) -> None:
        house, session = self.begin()
        self.feed(session, BINARY)
        session.say("MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>")
        self.assertEqual(self.feed(session, BINARY), ["550"])
        self.assertEqual(len(house.intake.accepted), 1)

    def test_a_reply_for_each_recipient_in_lmtp(self) -> None:
        for content, codes in ((BINARY, ["250", "250"]), (b"Content-Type: multipart/x\r\n\r\n", ["554", "554"])):
            house = House(Service.LMTP)
            session = house.connect()
            rcpt = "RCPT TO:<alice@example.org>", "RCPT TO:<bob@example.org>"
            session.say("LHLO c", "MAIL FROM:<a@example.com> BODY=BINARYMIME", *rcpt)
            self.assertEqual(self.feed(session, content), codes)
            self.assertEqual([written.endswith(STORED) for _, written in house.intake.accepted], [True] * (codes[0] == "250"))
