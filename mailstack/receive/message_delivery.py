"""
The reception by someone else's code: an IMessageDelivery or IMessageDeliveryFactory of `twisted.mail`.

They work as under `smtp.ESMTP`: validateFrom, validateTo, a message object for each recipient, its lines, eomReceived. Three
things are better. A message object that several recipients share gets the content once. An SMTPServerError keeps its code,
whether its text is str or bytes. Every other failure is temporary, where `smtp.ESMTP` makes it final and loses mail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, maybeDeferred
from twisted.mail import smtp
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail import reply as replies
from mailstack.mail.address import Address
from mailstack.mail.envelope import Origin, Service
from mailstack.mail.reply import Reply
from mailstack.mail.status import EnhancedStatus
from mailstack.mail.verdict import Stage
from mailstack.wire.smtp_commands import Mail, Rcpt

DELIVERY_INTERFACES: Final = (smtp.IMessageDeliveryFactory, smtp.IMessageDelivery)
"""The avatars that this module puts to work, in the order in which a realm is asked for them."""


class DeliveryReception:
    """
    Receives one message for a delivery object (a `ports.Reception`).

    Shape:  `session` is given to the delivery as the protocol of its `smtp.User`.
    """

    def __init__(self, delivery: Any, origin: Origin, mail: Mail, session: Any) -> None:
        self._delivery = delivery
        self._origin = origin
        self._mail = mail
        self._session = session
        self._helo = (origin.hello.encode("ascii", "replace"), origin.peer.encode("ascii", "replace"))
        self._sender = _address(mail.reverse_path, b"")
        self._users: list[smtp.User] = []
        self._makers: list[Callable[[], Any]] = []
        self._messages: list[Any] = []  # for each recipient, with repetitions
        self._line: list[bytes] = []  # the parts of a line that has not ended
        self._failure: Failure | None = None
        self._is_begun = False
        self._is_open = False

    async def mail(self) -> Reply:
        """Answer MAIL."""
        if smtp.IMessageDeliveryFactory.providedBy(self._delivery):
            self._delivery = self._delivery.getMessageDelivery()
        try:
            self._sender = await maybeDeferred(self._delivery.validateFrom, self._helo, self._sender)
        except smtp.SMTPServerError as error:
            return self._refuse(Stage.MAIL, _reply(error))
        return replies.SENDER_OK

    async def rcpt(self, rcpt: Rcpt) -> Reply:
        """Answer RCPT; what it asks besides has no place in IMessageDelivery."""
        forward_path = rcpt.forward_path
        user = smtp.User(_address(forward_path, self._session.host), self._helo, self._session, self._sender)
        try:
            maker = await maybeDeferred(self._delivery.validateTo, user)
        except smtp.SMTPServerError as error:
            return self._refuse(Stage.RCPT, _reply(error), forward_path)
        self._users.append(user)
        self._makers.append(maker)
        return replies.RECIPIENT_OK

    async def data(self) -> Reply:
        """Answer DATA: make the message objects."""
        self._is_open = True
        try:
            for make in self._makers:
                self._messages.append(make())
            field = self._delivery.receivedHeader(self._helo, self._sender, self._users)
            if field:
                self._each_line(field if isinstance(field, bytes) else field.encode("ascii", "replace"))
        except smtp.SMTPServerError as error:
            self.abort()
            return self._refuse(Stage.CONTENT, _reply(error))
        return replies.START_CONTENT

    def write(self, octets: bytes) -> Awaitable[None] | None:
        """Take octets of the content; no chunk ends between CR and LF."""
        if self._failure is not None:
            return None
        *lines, rest = octets.split(b"\r\n")
        try:
            if not self._is_begun and octets.startswith((b" ", b"\t")):
                self._each_line(b"")  # or the peer would write on in the Received field; so does smtp.ESMTP
            self._is_begun = True
            for line in lines:
                self._each_line(b"".join((*self._line, line)))
                self._line.clear()
        except Exception:
            self._failure = Failure()  # the content must be read to its end before that can be said
        if rest:
            self._line.append(rest)
        return None

    async def finish(self) -> list[Reply]:
        """Answer the content: good for all, or for LMTP each for itself."""
        if self._failure is not None:
            self.abort()
            return [self._judge(self._failure)] * self._replies
        self._is_open = False
        messages = self._distinct
        ended = [maybeDeferred(each.eomReceived) for each in messages]
        gathered: Deferred[list[tuple[bool, Any]]] = DeferredList(ended, consumeErrors=True)
        outcomes = [replies.OK if good else self._judge(result) for good, result in await gathered]
        if self._origin.service is Service.LMTP:
            of = {id(message): outcome for message, outcome in zip(messages, outcomes, strict=True)}
            return [of[id(each)] for each in self._messages]
        # Some have it and some have not: who tries again makes a duplicate, who does not loses mail.
        bad = [each for each in outcomes if not each.is_success]
        return [next((each for each in bad if each.is_temporary), bad[0]) if bad else replies.OK]

    def refused(self, reply: Reply) -> None:
        """Take note that the core refused the content."""
        self._refuse(Stage.CONTENT, reply)
        self.abort()

    def abort(self) -> None:
        """Tell the message objects that their content will not be whole."""
        if not self._is_open:
            return
        self._is_open = False
        for each in self._distinct:
            try:
                each.connectionLost()
            except Exception:
                events.unexpected(f"{self._origin.session}: connectionLost of a message", Failure())

    @property
    def _distinct(self) -> list[Any]:
        return list({id(each): each for each in self._messages}.values())

    @property
    def _replies(self) -> int:
        return len(self._users) if self._origin.service is Service.LMTP else 1

    def _each_line(self, line: bytes) -> None:
        for each in self._distinct:
            each.lineReceived(line)

    def _judge(self, failure: Failure) -> Reply:
        """Turn what a message object raised into a reply."""
        if failure.check(CancelledError):
            failure.raiseException()
        if isinstance(failure.value, smtp.SMTPServerError):
            return self._refuse(Stage.CONTENT, _reply(failure.value))
        events.unexpected(f"{self._origin.session}: delivery of a message", failure)
        return replies.LOCAL_ERROR

    def _refuse(self, stage: Stage, reply: Reply, recipient: Address | None = None) -> Reply:
        events.transaction_refused(self._origin.session, stage, reply, "by its delivery", self._mail.reverse_path, recipient)
        return reply


def _address(address: Address | None, domain: bytes) -> smtp.Address:
    """Make the Address of twisted.mail without its parser, which does not know all forms; the postmaster gets our domain."""
    made = smtp.Address(b"")
    if address is not None:
        without_domain = str(Address(address.local_part, ""))
        made.local, made.domain = without_domain.encode("utf-8"), address.domain.encode("utf-8") or domain
        made.addrstr = bytes(made)
    return made


def _reply(error: smtp.SMTPServerError) -> Reply:
    """Keep the code of an error, if it is one that may be answered."""
    text = error.resp.decode("utf-8", "replace") if isinstance(error.resp, bytes) else str(error.resp)
    code = error.code if isinstance(error.code, int) and 400 <= error.code <= 559 else 451
    status = EnhancedStatus.parse(text)
    if status is not None:
        text = text[len(str(status)) + 1 :]
    if status is None or status.kind != code // 100:
        status = EnhancedStatus(code // 100, 0, 0)
    return Reply(code, tuple(text.replace("\r", "").split("\n")), status)
