"""
One transaction of a client: what it says, and what became of each recipient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from mailstack.mail.address import format_path
from mailstack.mail.reply import MESSAGE_TOO_BIG, NEEDS_DELIVERBY, NEEDS_REQUIRETLS, NEEDS_SMTPUTF8, TOO_LATE, Reply
from mailstack.mail.requests import OriginalRecipient, Requests, utf8_xtext
from mailstack.wire.errors import LocalProtocolError
from mailstack.wire.grammar import encode_xtext
from mailstack.wire.smtp_mailing import HONOURED, Asked, Mailing, Phase, Result
from mailstack.wire.smtp_parameters import ORIGINAL_RECIPIENT_OCTETS

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

Offered = Mapping[str, tuple[str, ...]]
"""What a server offers: keywords in upper case with their parameters."""


class Transaction:
    """
    The recipients of a mailing, with what was said of each.

    Shape:  `results` are in the order of the recipients, None for those of whom nothing was said; `accepted` are the numbers of
            those that may get the content; `by_chunks`: it goes by BDAT, where `chunking` lets it.
    """

    def __init__(self, mailing: Mailing, offered: Offered, *, chunking: bool = False) -> None:
        self._mailing = mailing
        self._offered = offered
        self.by_chunks = chunking and "CHUNKING" in offered
        self.results = [self._judge(number) for number in range(len(mailing.recipients))]
        self.accepted: list[int] = []
        self.is_mail_refused = False

    @property
    def octets(self) -> int:
        """The length of the content."""
        return self._mailing.octets

    @property
    def is_decided(self) -> bool:
        """Whether nothing is left to be asked."""
        return None not in self.results

    def _judge(self, number: int) -> Result | None:
        """Judge what the server would refuse anyway, so that it need not be tried."""
        limit = self._offered.get("SIZE", ())[:1]
        if limit and limit[0].isdigit() and len(limit[0]) < 20 and 0 < int(limit[0]) < self._mailing.octets:
            return Result(Phase.MAIL, MESSAGE_TOO_BIG, is_local=True)
        if self._mailing.requests.requires_tls and "REQUIRETLS" not in self._offered:
            return Result(Phase.MAIL, NEEDS_REQUIRETLS, is_local=True)
        by = self._mailing.requests.deliver_by
        if by is not None and by.returns:  # RFC 2852 §4: no host may get it that might deliver it too late
            if "DELIVERBY" not in self._offered:
                return Result(Phase.MAIL, NEEDS_DELIVERBY, is_local=True)
            if (self._mailing.by_seconds or 0) < 1:
                return Result(Phase.MAIL, TOO_LATE, is_local=True)
        if (self._mailing.smtputf8 or not self._is_ascii([number])) and "SMTPUTF8" not in self._offered:
            return Result(Phase.RCPT, NEEDS_SMTPUTF8, is_local=True)
        return None

    def _is_ascii(self, numbers: Sequence[int]) -> bool:
        mailing = self._mailing
        return mailing.has_ascii_reverse_path and all(mailing.recipients[number].is_ascii for number in numbers)

    def commands(self) -> Iterator[tuple[Phase, int, bytes]]:
        """Yield the commands, each with the phase in which it is answered and the recipient that it is about."""
        mailing, offered = self._mailing, self._offered
        wanted = [number for number, result in enumerate(self.results) if result is None]
        text = f"MAIL FROM:{format_path(mailing.reverse_path)}"
        if "SIZE" in offered:
            text += f" SIZE={mailing.octets}"
        if mailing.eight_bit and "8BITMIME" in offered:
            text += " BODY=8BITMIME"
        is_utf8 = (mailing.smtputf8 or not self._is_ascii(wanted)) and "SMTPUTF8" in offered
        if is_utf8:
            text += " SMTPUTF8"
        if "DSN" in offered:
            text += _of_mail(mailing.requests)
        if mailing.requests.requires_tls:
            text += " REQUIRETLS"
        if "DELIVERBY" in offered:
            text += _by(mailing)
        if mailing.requests.priority and "MT-PRIORITY" in offered:
            text += f" MT-PRIORITY={mailing.requests.priority}"
        yield Phase.MAIL, 0, command_line(text)
        for number in wanted:
            asked = _of_rcpt(mailing.asked[number], is_utf8=is_utf8) if mailing.asked and "DSN" in offered else ""
            yield Phase.RCPT, number, command_line(f"RCPT TO:{format_path(mailing.recipients[number])}{asked}")
        if not self.by_chunks:
            yield Phase.DATA, 0, b"DATA\r\n"

    def take_mail(self, reply: Reply) -> None:
        """Note the reply to MAIL."""
        if not reply.is_success:
            self.is_mail_refused = True
            self.decide(Phase.MAIL, reply)

    def take_rcpt(self, number: int, reply: Reply) -> None:
        """Note the reply to RCPT; after a refused MAIL it only says 503."""
        if self.is_mail_refused:
            return
        if reply.is_success:
            self.accepted.append(number)
        else:
            self.results[number] = Result(Phase.RCPT, reply)

    def take_end(self, numbers: Sequence[int], reply: Reply) -> None:
        """Note the reply to the content."""
        for number in numbers:
            self.results[number] = Result(Phase.CONTENT_END, reply, honours=HONOURED & self._offered.keys())

    def decide(self, phase: Phase, reply: Reply) -> None:
        """Give the reply to every recipient that has no result."""
        self.results = [result or Result(phase, reply) for result in self.results]


def _of_mail(requests: Requests) -> str:
    """Write RET and ENVID (RFC 3461 §4.3, §4.4)."""
    text = f" RET={requests.returns.value}" if requests.returns is not None else ""
    if requests.envelope_id is not None:
        text += f" ENVID={encode_xtext(requests.envelope_id)}"
    return text


def _by(mailing: Mailing) -> str:
    """Write BY (RFC 2852 §4)."""
    by = mailing.requests.deliver_by
    if by is None or mailing.by_seconds is None:
        return ""
    return f" BY={mailing.by_seconds};{'R' if by.returns else 'N'}{'T' if by.traces else ''}"


def _of_rcpt(asked: Asked, *, is_utf8: bool) -> str:
    """Write NOTIFY and ORCPT (RFC 3461 §4.1, §4.2)."""
    text = f" NOTIFY={','.join(sorted(each.value for each in asked.notify))}" if asked.notify is not None else ""
    if asked.original_recipient is not None:
        text += _orcpt(asked.original_recipient, is_utf8=is_utf8)
    return text


def _orcpt(original: OriginalRecipient, *, is_utf8: bool) -> str:
    """
    Write ORCPT, that of a UTF-8 address as RFC 6533 §3 says.

    In ASCII every host with DSN takes it. What is too long so goes on in the form in which it came, shorter: with + and = as in
    xtext, and in a transaction with SMTPUTF8 as UTF-8. What had that and now has not is too long in any form, and left out.
    """
    if original.kind != "utf-8":
        return f" ORCPT={original.kind};{encode_xtext(original.address)}"
    for text in (utf8_xtext(original.address), _short_utf8(original.address, is_utf8=is_utf8)):
        if len(f"utf-8;{text}".encode()) <= ORIGINAL_RECIPIENT_OCTETS:
            return f" ORCPT=utf-8;{text}"
    return ""


def _short_utf8(address: str, *, is_utf8: bool) -> str:
    def written(each: str) -> str:
        if each in "+=":
            return encode_xtext(each)
        return each if is_utf8 and not each.isascii() else utf8_xtext(each)

    return "".join(map(written, address))


def command_line(text: str) -> bytes:
    """Write a command. A value with a control character cannot be made; should one come here, it goes no further."""
    if _CONTROL.search(text):
        raise LocalProtocolError("a control character in a command")
    return text.encode() + b"\r\n"
