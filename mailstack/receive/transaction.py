"""
Our own reception: from MAIL to the 250 that makes the message ours.

Theory of operation. Each stage asks the judge; RCPT also asks the router, which expands the forward-path into recipients. The
content goes into a draft of the spool as it comes, with our Received field in front. For that the header section is held back
until it is whole (at most HEADER_OCTETS): its Received fields are counted, against loops, and a submission gets the Date and
Message-ID that it lacks (RFC 6409 §8.1, §8.3).

What a peer sends as BINARYMIME has no binary parts any more when it comes here, and is an 8BITMIME message from then on.

In LMTP each recipient has a reply of its own (RFC 2033 §4.2), and these are all the same: a content is judged once, and what is
accepted is on stable storage for all of them. So each 250 is true, also where the delivery to one account fails and that to
another works: the former waits in the spool and is tried again. What one recipient is refused for is known at its RCPT. And it
relays nothing: a forward-path that leads out of the house, by an alias for instance, is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from twisted.internet.interfaces import IReactorTime

from mailstack import events
from mailstack.doors import Transaction
from mailstack.mail import reply as replies
from mailstack.mail.address import Address
from mailstack.mail.binary import encoded_octets
from mailstack.mail.envelope import Account, BodyType, Destination, Envelope, Origin, Recipient, Remote, Service
from mailstack.mail.headers import HEADER_OCTETS, count_fields, fields, has_field, header_section
from mailstack.mail.reply import Reply, reply
from mailstack.mail.requests import NO_REQUESTS, DeliverBy, Notify, Requests
from mailstack.mail.trace import format_date, received_field, was_delivered_to
from mailstack.mail.verdict import Refuse, Stage
from mailstack.receive.ports import Draft, Intake, Judge, Router
from mailstack.wire.limits import Limits
from mailstack.wire.smtp_commands import Mail, Rcpt

END_OF_HEADER: Final = b"\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What receptions have in common."""

    hostname: str
    limits: Limits
    clock: IReactorTime
    intake: Intake
    router: Router
    judge: Judge


class SpoolReception:
    """Receives one message into the spool (a `ports.Reception`)."""

    def __init__(self, desk: Desk, origin: Origin, mail: Mail) -> None:
        self._desk = desk
        self._origin = origin
        self._mail = mail
        self._facts = Transaction(origin=origin, reverse_path=mail.reverse_path, parameters=mail.parameters)
        self._recipients: dict[tuple[Destination, Address], Recipient] = {}
        self._accepted = 0  # forward-paths, each of which gets a reply of its own in LMTP
        self._draft: Draft | None = None
        self._accepted_at = 0.0
        self._octets = 0
        self._head: bytearray | None = bytearray()  # the header section, until it is whole
        self._header = b""  # it, as it came
        self._refusal: Refuse | None = None
        self._is_binary = mail.body is BodyType.BINARY_MIME
        self._requests = _requests(mail, desk.clock.seconds(), is_trusted=origin.account is not None)
        self._needs_utf8 = False

    async def mail(self) -> Reply:
        """Answer MAIL."""
        held_until = self._requests.held_until
        if held_until is not None and held_until > self._desk.clock.seconds() + self._desk.limits.hold_seconds:
            return self._refuse(Stage.MAIL, Refuse(replies.HELD_TOO_LONG))
        no_space = self._desk.intake.refusal(self._announced_octets)
        refuse = Refuse(no_space) if no_space is not None else await self._desk.judge.mail(self._facts)
        return replies.SENDER_OK if refuse is None else self._refuse(Stage.MAIL, refuse)

    async def rcpt(self, rcpt: Rcpt) -> Reply:
        """Answer RCPT; a recipient to whom several forward-paths lead gets the message once, as the first of them asked."""
        forward_path = rcpt.forward_path
        refuse = await self._desk.judge.rcpt(self._facts, forward_path)
        if refuse is not None:
            return self._refuse(Stage.RCPT, refuse, forward_path)
        routed = await self._desk.router.route(forward_path)
        if isinstance(routed, Refuse):
            return self._refuse(Stage.RCPT, routed, forward_path)
        if self._origin.service is Service.LMTP and any(isinstance(each.destination, Remote) for each in routed):
            return self._refuse(Stage.RCPT, Refuse(replies.RELAYING_DENIED, "LMTP is for accounts only"), forward_path)
        if not routed:
            return self._refuse(Stage.RCPT, Refuse(replies.NO_SUCH_USER, "leads to nobody"), forward_path)
        for each in _as_asked(routed, rcpt):
            self._recipients.setdefault((each.destination, each.address), each)
        self._facts = Transaction(
            origin=self._origin,
            reverse_path=self._mail.reverse_path,
            recipients=(*self._facts.recipients, forward_path),
            parameters=self._mail.parameters,
        )
        self._accepted += 1
        return replies.RECIPIENT_OK

    async def data(self) -> Reply:
        """Answer DATA."""
        no_space = self._desk.intake.refusal(self._announced_octets)
        if no_space is not None:
            return self._refuse(Stage.CONTENT, Refuse(no_space))
        self._draft = self._desk.intake.begin(self._mail.reverse_path, tuple(self._recipients.values()))
        self._accepted_at = self._desk.clock.seconds()
        return replies.START_CONTENT

    def write(self, octets: bytes) -> Awaitable[None] | None:
        """Take octets of the content."""
        self._octets += len(octets)
        if self._refusal is not None or self._draft is None:
            return None
        if self._head is None:
            return self._draft.write(octets)
        if not self._head and (END_OF_HEADER in octets or octets.startswith(b"\r\n")):
            return self._write_head(self._draft, octets)
        searched = max(0, len(self._head) - len(END_OF_HEADER) + 1)
        self._head += octets
        if self._head.find(END_OF_HEADER, searched) >= 0 or len(self._head) >= HEADER_OCTETS:
            return self._write_head(self._draft, bytes(self._head))
        return None

    async def finish(self) -> list[Reply]:
        """Answer the content: the only place that gives a 250 for it."""
        draft = self._draft
        assert draft is not None, "DATA was answered with 354"
        if self._head is not None and self._refusal is None:
            self._write_head(draft, bytes(self._head))
        refuse = self._refusal or await self._desk.judge.content(self._facts_with_header(), draft.content())
        if refuse is None:
            refuse = await draft.commit(self._envelope())
        if refuse is not None:
            draft.abort()
            return [self._refuse(Stage.CONTENT, refuse)] * self._replies
        events.entry_accepted(draft.entry, self._origin.session, self._mail.reverse_path, len(self._recipients), self._octets)
        return [reply(250, "2.0.0", f"OK, queued as {draft.entry}")] * self._replies

    def refused(self, reply: Reply) -> None:
        """Take note that the core refused the content."""
        self._refuse(Stage.CONTENT, Refuse(reply))
        self.abort()

    def abort(self) -> None:
        """Forget the transaction."""
        if self._draft is not None:
            self._draft.abort()

    def _facts_with_header(self) -> Transaction:
        return Transaction(
            origin=self._origin,
            reverse_path=self._mail.reverse_path,
            recipients=self._facts.recipients,
            parameters=self._mail.parameters,
            header=self._header,
        )

    @property
    def _announced_octets(self) -> int:
        """How long the message will be, as far as the peer has said it; binary parts grow."""
        octets = self._mail.size_octets or 0
        return encoded_octets(octets) if self._is_binary else octets

    @property
    def _replies(self) -> int:
        return self._accepted if self._origin.service is Service.LMTP else 1

    def _envelope(self) -> Envelope:
        return Envelope(
            reverse_path=self._mail.reverse_path,
            recipients=tuple(self._recipients.values()),
            origin=self._origin,
            accepted_at=self._accepted_at,
            body=BodyType.EIGHT_BIT_MIME if self._is_binary else self._mail.body,
            smtputf8=self._needs_utf8,
            requests=self._requests,
        )

    def _write_head(self, draft: Draft, head: bytes) -> Awaitable[None] | None:
        self._head = None
        self._header = section = header_section(head)
        self._needs_utf8 = self._mail.smtputf8 and not (section.isascii() and self._has_ascii_addresses())
        hops = self._desk.limits.hops
        # The count of the word bounds that of the fields, and is a hundred times cheaper.
        lowered = section.lower()
        if lowered.count(b"received") > hops and count_fields(section, b"received") > hops:
            self._refusal = Refuse(replies.TOO_MANY_HOPS)
        elif b"delivered-to" in lowered and self._was_delivered(section):
            # Found out later it would make a notification, to whomever a stranger named as the sender.
            self._refusal = Refuse(replies.WAS_DELIVERED)
        if self._refusal is not None:
            draft.abort()
            return None
        front = received_field(
            self._origin,
            hostname=self._desk.hostname,
            entry=draft.entry,
            accepted_at=self._accepted_at,
            recipient=self._facts.recipients[0] if len(self._facts.recipients) == 1 else None,
        )
        if self._origin.service.is_submission:
            front += self._missing_fields(section, draft.entry)
        if head.startswith((b" ", b"\t")) or (not head.startswith(b"\r\n") and not has_field(section)):
            # Or the peer would write on in our last field, since no section begins with a fold; or a bare text would be taken
            # for a header section, since ours stands in front of it.
            front += b"\r\n"
        return draft.write(front + head)

    def _was_delivered(self, section: bytes) -> bool:
        """Say whether the message has been in each of the mailboxes that it is for (RFC 9228)."""
        return all(
            isinstance(each.destination, Account) and was_delivered_to(each.address, section)
            for each in self._recipients.values()
        )

    def _has_ascii_addresses(self) -> bool:
        reverse_path = self._mail.reverse_path
        return (reverse_path is None or reverse_path.is_ascii) and all(each.is_ascii for _, each in self._recipients)

    def _missing_fields(self, section: bytes, entry: str) -> bytes:
        """Write the fields that a submitted message must have and lacks (RFC 6409 §8.1, §8.3; RFC 5322 §3.6)."""
        present = {name for name, _ in fields(section)}
        missing = b""
        if b"date" not in present:
            missing += f"Date: {format_date(self._accepted_at)}\r\n".encode("ascii")
        if b"message-id" not in present:
            missing += f"Message-ID: <{entry}@{self._desk.hostname}>\r\n".encode("ascii")
        return missing

    def _refuse(self, stage: Stage, refuse: Refuse, recipient: Address | None = None) -> Reply:
        events.transaction_refused(self._origin.session, stage, refuse.reply, refuse.cause, self._mail.reverse_path, recipient)
        return refuse.reply


def _as_asked(routed: Sequence[Recipient], rcpt: Rcpt) -> Sequence[Recipient]:
    """
    Note what RCPT asked besides, which holds for all to whom an alias leads.

    Of an alias to several the success is that it led to them, and nothing is told of theirs (RFC 3461 §5.2.7). Else a single
    RCPT could bring down a notification by each of a thousand hosts on whoever is named as the sender.
    """
    notify = rcpt.notify
    if notify is None and rcpt.original_recipient is None:
        return routed
    is_expanded = len(routed) > 1 and notify is not None and Notify.SUCCESS in notify
    if is_expanded and notify is not None:
        notify = notify - {Notify.SUCCESS} or frozenset((Notify.NEVER,))
    return [
        replace(each, notify=notify, original_recipient=rcpt.original_recipient, is_expanded=is_expanded and number == 0)
        for number, each in enumerate(routed)
    ]


def _requests(mail: Mail, now: float, *, is_trusted: bool) -> Requests:
    """
    Make what MAIL asks independent of the time at which it was said.

    Shape:   who is not trusted may only ask to come later than others (RFC 6710 §4.1, §10).
    """
    if not mail.parameters:
        return NO_REQUESTS
    held_until = now + mail.hold_seconds if mail.hold_seconds is not None else mail.hold_until
    by = mail.by
    return Requests(
        returns=mail.returns,
        envelope_id=mail.envelope_id,
        requires_tls=mail.requires_tls,
        priority=(mail.priority or 0) if is_trusted else min(mail.priority or 0, 0),
        deliver_by=DeliverBy(now + by.seconds, by.returns, by.traces) if by is not None else None,
        held_until=held_until,
    )
