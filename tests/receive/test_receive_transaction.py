"""Our own reception: what is asked, what is stored, and when a 250 is said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from receive_fakes import House, Session
from twisted.trial.unittest import SynchronousTestCase

from mailstack.mail import reply as replies
from mailstack.mail.envelope import Account, BodyType, Origin, Remote, Service
from mailstack.mail.headers import HEADER_OCTETS
from mailstack.mail.verdict import Refuse, defer, reject
from mailstack.receive.transaction import SpoolReception
from mailstack.spool.space import FreeSpace
from mailstack.wire.limits import GATHERED_OCTETS, Limits
from mailstack.wire.smtp_commands import Mail

MESSAGE = "Subject: x\r\n\r\ntext\r\n."


def in_data(*recipients: str, mail: str = "MAIL FROM:<a@example.com>", **more: Any) -> tuple[House, Session]:
    house = House(**more)
    session = house.connect()
    hello = "LHLO c" if house.factory.is_lmtp else "EHLO c"
    session.say(hello, mail, *(f"RCPT TO:<{each}>" for each in recipients or ("bob@example.org",)), "DATA")
    return house, session


class EnvelopeTests(SynchronousTestCase):
    def test_what_is_in_it(self) -> None:
        house, session = in_data("bob@example.org", "x@remote.example", mail="MAIL FROM:<> BODY=8BITMIME SIZE=20")
        session.say(MESSAGE)
        [(envelope, _)] = house.intake.accepted
        self.assertIsNone(envelope.reverse_path)
        self.assertIs(BodyType.EIGHT_BIT_MIME, envelope.body)
        self.assertEqual(
            [Account("bob@example.org"), Remote("remote.example")], [each.destination for each in envelope.recipients]
        )
        self.assertEqual(house.clock.seconds(), envelope.accepted_at)
        origin = envelope.origin
        self.assertEqual(Origin(service=Service.SMTP, peer="192.0.2.1", hello="c", session="s1"), origin)

    def test_recipients_are_there_once_after_expansion(self) -> None:
        house, session = in_data("both@example.org", "alice@example.org", "BOTH@EXAMPLE.ORG", "alice@example.org")
        session.say(MESSAGE)
        [(envelope, _)] = house.intake.accepted
        self.assertEqual(
            ["alice@example.org", "bob@example.org", "BOTH@example.org"], [str(r.address) for r in envelope.recipients]
        )
        self.assertEqual("both@example.org", str(envelope.recipients[0].original))

    def test_policies_see_the_recipients_accepted_so_far(self) -> None:
        house = House()
        session = house.connect()
        session.say(
            "EHLO c",
            "MAIL FROM:<a@example.com> SIZE=5",
            "RCPT TO:<x@example.org>",
            "RCPT TO:<unknown@example.org>",
            "RCPT TO:<y@example.org>",
        )
        transaction, recipient = house.judge.asked[-1][1]
        self.assertEqual("y@example.org", str(recipient))
        self.assertEqual(["x@example.org"], [str(each) for each in transaction.recipients])
        self.assertEqual({"SIZE": "5"}, transaction.parameters)
        session.say("DATA", MESSAGE)
        transaction, content = house.judge.asked[-1][1]
        self.assertEqual(2, len(transaction.recipients))
        self.assertTrue(content.in_memory.endswith(b"text\r\n"))

    def test_what_one_transaction_learned_is_not_known_to_the_next(self) -> None:
        house, session = in_data("alice@example.org")
        session.say(MESSAGE)
        session.say("MAIL FROM:<b@example.com>", "RCPT TO:<bob@example.org>", "DATA", MESSAGE)
        self.assertEqual(["bob@example.org"], [str(each.address) for each in house.intake.accepted[1][0].recipients])


class RefusalTests(SynchronousTestCase):
    def test_recipients(self) -> None:
        house = House()
        session = house.connect()
        session.say("EHLO c", "MAIL FROM:<a@example.com>")
        self.assertEqual(["550"], session.say("RCPT TO:<unknown@example.org>"))
        self.assertEqual(["550"], session.say("RCPT TO:<nobody@example.org>"))
        house.judge.answers = {"rcpt": [reject("no"), defer("later")]}
        self.assertEqual(["550", "451"], session.say("RCPT TO:<bob@example.org>", "RCPT TO:<bob@example.org>"))
        self.assertEqual(["451"], session.say("RCPT TO:<broken@example.org>"))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual(["554"], session.say("DATA"))

    def test_content_by_a_policy(self) -> None:
        house, session = in_data()
        house.judge.answers = {"content": reject("spam", code=554)}
        self.assertEqual(["554"], session.say(MESSAGE))
        self.assertTrue(house.intake.drafts[0].aborted)
        self.assertEqual(["503"], session.say("DATA"))

    def test_content_by_the_spool(self) -> None:
        house, session = in_data()
        house.intake.outcome = Refuse(replies.NO_SPACE, "no space left on device")
        self.assertEqual(["452"], session.say(MESSAGE)[-1:])
        self.assertEqual([], house.intake.accepted)

    def test_no_space_at_mail_and_at_data(self) -> None:
        house = House()
        session = house.connect()
        house.intake.full = True
        self.assertEqual(["220", "250", "452"], session.codes() + session.say("EHLO c", "MAIL FROM:<a@example.com>"))
        house.intake.full = False
        session.say("MAIL FROM:<a@example.com>", "RCPT TO:<bob@example.org>")
        house.intake.full = True
        self.assertEqual(["452"], session.say("DATA"))
        house.intake.full = False
        self.assertEqual(["354", "250"], session.say("DATA", MESSAGE))

    def test_space_and_inodes_as_the_disk_has_them(self) -> None:
        house = House()
        disk = SimpleNamespace(f_frsize=1_000, f_files=100, f_bavail=50, f_favail=50)
        space = FreeSpace(Path(), house.clock, min_free_octets=10_000, min_free_inodes=10, statvfs=lambda path: disk)  # type: ignore[arg-type, return-value]
        house.intake.refusal = space.refusal  # type: ignore[method-assign]
        session = house.connect()
        session.say("EHLO c")
        replied = {}
        for name, change in (("octets", {"f_bavail": 9}), ("inodes", {"f_bavail": 50, "f_favail": 9})):
            vars(disk).update(f_bavail=50, f_favail=50)
            house.clock.advance(2)
            self.assertEqual(["452"], session.say("MAIL FROM:<a@example.com> SIZE=40001"))
            self.assertEqual(["250", "250"], session.say("MAIL FROM:<a@example.com> SIZE=40000", "RCPT TO:<bob@example.org>"))
            vars(disk).update(change)
            house.clock.advance(2)
            session.protocol.dataReceived(b"DATA\r\nRSET\r\nMAIL FROM:<a@example.com>\r\n")
            replied[name] = session.take().split("\r\n")
        said = ["452 4.3.1 Insufficient system storage, try again later", "250 2.0.0 OK"]
        self.assertEqual({name: [*said, said[0], ""] for name in ("octets", "inodes")}, replied)

    def test_loops(self) -> None:
        for hops, code in ((50, "250"), (51, "554")):
            house, session = in_data()
            self.assertEqual([code], session.say(*["Received: by x; now"] * hops, "Subject: x", "", "Received: y", "."), hops)
            self.assertEqual(code == "250", bool(house.intake.accepted))

    def test_the_word_received_is_no_loop(self) -> None:
        _, session = in_data(limits=Limits(hops=2))
        self.assertEqual(["250"], session.say("Subject: received received received received", "", "."))

    def test_a_message_that_was_in_all_its_mailboxes_before(self) -> None:
        bob, carol = "RCPT TO:<bob@example.org>", "RCPT TO:<carol@example.org>"
        for rcpt, fields, code in (
            ((bob,), "Delivered-To: Bob@example.org", "554"),
            ((bob, carol), "delivered-to:  carol@example.org\r\nDelivered-To: bob@example.org", "554"),
            ((bob, carol), "Delivered-To: bob@example.org", "250"),
            ((bob,), "X: Delivered-To: bob@example.org", "250"),
            (("RCPT TO:<x@remote.example>",), "Delivered-To: x@remote.example", "250"),
        ):
            house = House()
            session = house.connect()
            session.say("EHLO c", "MAIL FROM:<a@example.com>", *rcpt, "DATA")
            self.assertEqual([code], session.say(f"{fields}\r\n\r\nb\r\n."), fields)
            self.assertIs(house.intake.drafts[0].aborted, code == "554")

    def test_too_big(self) -> None:
        house, session = in_data(limits=Limits(message_octets=100))
        self.assertEqual(["552"], session.say("Subject: x", "", "y" * 100, "."))
        self.assertTrue(house.intake.drafts[0].aborted)

    def test_twice_too_big_closes(self) -> None:
        house, session = in_data(limits=Limits(message_octets=100))
        self.assertEqual(["552"], session.say("Subject: x", "", "y" * 300))
        self.assertFalse(session.is_connected)
        self.assertTrue(house.intake.drafts[0].aborted)
        self.assertEqual(0, len(house.factory))


class HeadTests(SynchronousTestCase):
    def head(self, *lines: str, service: Service = Service.SMTP, recipients: tuple[str, ...] = ()) -> bytes:
        house, session = in_data(*recipients)
        house.intake.accepted.clear()
        session.say(*lines, ".")
        return house.intake.accepted[0][1]

    def test_for_stands_there_only_for_a_single_recipient(self) -> None:
        self.assertIn(b"\r\n\tfor <bob@example.org>; ", self.head("Subject: x", "", "y"))
        self.assertNotIn(b"for <", self.head("Subject: x", "", "y", recipients=("a@example.org", "b@example.org")))

    def test_a_server_s_message_is_not_completed(self) -> None:
        self.assertNotIn(b"Message-ID", self.head("Subject: x", "", "y"))

    def test_odd_messages(self) -> None:
        for lines in (("",), ("", "body"), ("no header at all",), ("Subject: only a header",), ()):
            content = self.head(*lines)
            self.assertTrue(content.startswith(b"Received: "))
            self.assertTrue(content.endswith(b"".join(line.encode() + b"\r\n" for line in lines)), lines)

    def test_every_cut_gives_the_same(self) -> None:
        octets = b"Subject: x\r\nTo: y\r\n\r\nbody\r\n\r\n..\r\n.\r\n"
        house, session = in_data()
        session.protocol.dataReceived(octets)
        expected = house.intake.accepted[0][1]
        for cut in range(1, len(octets)):
            house, session = in_data()
            session.protocol.dataReceived(octets[:cut])
            session.protocol.dataReceived(octets[cut:])
            self.assertEqual(expected, house.intake.accepted[0][1], cut)
        house, session = in_data()
        for i in range(len(octets)):
            session.protocol.dataReceived(octets[i : i + 1])
        self.assertEqual(expected, house.intake.accepted[0][1])

    def test_the_header_section_is_not_held_back_when_it_is_whole(self) -> None:
        house, session = in_data()
        for octet in b"Subject: x\r\n\r\n" + b"y" * GATHERED_OCTETS:
            session.protocol.dataReceived(bytes([octet]))
        self.assertIn(b"Subject: x", house.intake.drafts[0].written)

    def test_a_header_section_without_end_is_not_kept_for_ever(self) -> None:
        house, session = in_data()
        for _ in range(HEADER_OCTETS // 10_000 + 1):
            session.protocol.dataReceived(b"X-Y: " + b"z" * 9993 + b"\r\n")
        self.assertGreater(len(house.intake.drafts[0].written), HEADER_OCTETS)
        self.assertEqual([], session.codes()[5:])
        self.assertEqual(["250"], session.say("."))


class LmtpTests(SynchronousTestCase):
    def test_one_reply_for_each_accepted_recipient(self) -> None:
        house, session = in_data("a@example.org", "unknown@example.org", "a@example.org", "b@example.org", service=Service.LMTP)
        self.assertEqual(["250"] * 3, session.say(MESSAGE))
        self.assertEqual(2, len(house.intake.accepted[0][0].recipients))
        self.assertIn(b"with LMTP id", house.intake.accepted[0][1])

    def test_refusals_too(self) -> None:
        house, session = in_data("a@example.org", "b@example.org", service=Service.LMTP)
        session.take()
        house.judge.answers = {"content": [reject("no"), RuntimeError("oh")]}
        self.assertEqual(["550"] * 2, session.say(MESSAGE))
        session.say("MAIL FROM:<>", "RCPT TO:<a@example.org>", "RCPT TO:<b@example.org>", "DATA")
        self.assertEqual(["451"] * 2, session.say(MESSAGE))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        session.say("MAIL FROM:<>", "RCPT TO:<a@example.org>", "RCPT TO:<b@example.org>", "DATA")
        self.assertEqual(["550"] * 2, session.say("bare\nlf", "."))


class UnusedTests(SynchronousTestCase):
    def test_nothing_is_written_before_data(self) -> None:
        desk = House().factory.desk
        assert desk is not None
        reception = SpoolReception(desk, Origin(service=Service.SMTP), Mail(None))
        self.assertIsNone(reception.write(b"x"))
        reception.abort()
