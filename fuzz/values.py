"""Values that are parsed from a word or a line: what is taken can be written, and read again as the same."""

from __future__ import annotations

import base64
import re
from typing import Final

from fuzz.exchanges import KEYS, NONCE, check, check_refusal, mechanisms, server_first
from fuzz.target import Choices, Target, kept, pieces
from mailstack.mail.address import DOMAIN_OCTETS, LOCAL_PART_OCTETS, Address, AddressError, format_path, parse_address
from mailstack.mail.envelope import BodyType
from mailstack.mail.reply import LINE_OCTETS, Reply, format_reply
from mailstack.mail.requests import Requests
from mailstack.mail.srs import SenderRewriting, SRSError, is_rewritten
from mailstack.mail.status import EnhancedStatus
from mailstack.wire import grammar
from mailstack.wire.errors import RemoteProtocolError, SaslCancelledError, SaslError, SaslRefusedError
from mailstack.wire.limits import COMMAND_LINE_OCTETS
from mailstack.wire.sasl import Bearer, Challenge, Credentials, KeysWanted, plain_initial_response
from mailstack.wire.sasl_bearer import BearerExchange
from mailstack.wire.scram import ScramExchange
from mailstack.wire.smtp_commands import Mail, Rcpt, parse_mail, parse_rcpt
from mailstack.wire.smtp_mailing import Asked, Mailing
from mailstack.wire.smtp_parameters import ENVELOPE_ID_OCTETS, ORIGINAL_RECIPIENT_OCTETS
from mailstack.wire.smtp_replies import PENDING_OCTETS, REPLY_LINES, ReplyReader, capabilities
from mailstack.wire.smtp_transaction import Transaction

ANNOUNCED: Final = frozenset(
    ("SIZE", "8BITMIME", "SMTPUTF8", "AUTH", "DSN", "REQUIRETLS", "DELIVERBY", "FUTURERELEASE", "MT-PRIORITY")
)
OFFERED: Final = dict.fromkeys(ANNOUNCED, ())
MECHANISMS: Final = mechanisms()
REWRITING: Final = SenderRewriting("x.example", (b"a secret", b"an old one"))
SIZE_OCTETS: Final = 1_000_000
_MAILBOX: Final = Address("x", "y.example")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_REPLY: Final = re.compile(rb"(?:([2-5][0-9]{2})-[ -~]*\r\n)*([2-5][0-9]{2})(?: [ -~]*)?\r\n")


def check_address(address: Address) -> None:
    """Check what every room relies on, whatever the address came from."""
    text = str(address)
    assert not _CONTROL.search(text)
    assert 0 < len(address.local_part.encode()) <= LOCAL_PART_OCTETS
    assert len(address.domain.encode()) <= DOMAIN_OCTETS
    assert len(f"x{text}x".splitlines()) == 1
    found = grammar.PATH.fullmatch(format_path(address).encode())
    assert found is not None, "its path is not one"
    assert found[1] == text.encode()
    if address.domain:
        assert parse_address(text) == address, "it is read as another"
    else:
        assert address.local_part == "postmaster"


def run_address(octets: bytes) -> None:
    """Parse an address."""
    try:
        address = parse_address(octets.decode("utf-8", "replace"))
    except AddressError as error:
        assert str(error).isascii()
        return
    check_address(address)


def run_return_path(octets: bytes) -> None:
    """
    Rewrite an address and restore it; take it for a rewritten one, as it is and, since nobody can guess a hash, signed.

    An octet that says on which day, then the address.
    """
    choices = Choices(octets)
    now = choices.number() * 86_400.0
    try:
        address = parse_address(choices.rest().decode("utf-8", "replace"))
    except AddressError:
        return
    rewritten = REWRITING.rewrite(address, now)
    if rewritten is not None:
        check_address(rewritten)
        restored = REWRITING.restore(rewritten, now)
        assert restored == address or (is_rewritten(address.local_part) and is_rewritten(restored.local_part))
    _restore(address, now)
    tag, rest = address.local_part[:5], address.local_part[5:]
    for fields in (rest.split("=", 2), rest.split("=", 1)):
        sign = REWRITING._hash(REWRITING.secrets[0], *fields)
        _restore(Address(f"{tag}{sign}={rest}", "x.example"), now)


def _restore(address: Address, now: float) -> None:
    try:
        check_address(REWRITING.restore(address, now))
    except SRSError as error:
        assert str(error).isascii()


def run_parameters(octets: bytes) -> None:
    """Parse what follows MAIL and RCPT; what our client makes of it must be read as the same by our server."""
    mail = parse_mail(octets, announced=ANNOUNCED, size_limit_octets=SIZE_OCTETS)
    rcpt = parse_rcpt(octets, announced=ANNOUNCED, is_utf8=True)
    if isinstance(mail, Mail):
        _check_mail(mail)
    else:
        assert mail.is_permanent
    if isinstance(rcpt, Rcpt):
        _check_rcpt(rcpt)
    else:
        assert rcpt.is_permanent
    assert not isinstance(mail, Mail) or not isinstance(rcpt, Rcpt)
    assert isinstance(parse_mail(octets, announced=frozenset(), size_limit_octets=0), Reply | Mail)


def _written(mailing: Mailing, number: int) -> bytes:
    """Return what our client writes behind the verb."""
    line = list(Transaction(mailing, OFFERED).commands())[number][2]
    assert line.endswith(b"\r\n")
    assert len(line) <= COMMAND_LINE_OCTETS + 2, "a line that our own server does not take"
    return line[:-2].partition(b" ")[2]


def _check_mail(mail: Mail) -> None:
    if mail.reverse_path is not None:
        check_address(mail.reverse_path)
    assert mail.size_octets is None or 0 <= mail.size_octets <= SIZE_OCTETS
    assert mail.envelope_id is None or 0 < len(mail.envelope_id) <= ENVELOPE_ID_OCTETS
    assert mail.envelope_id is None or not _CONTROL.search(mail.envelope_id)
    assert mail.hold_seconds is None or mail.hold_until is None
    assert mail.priority is None or -9 <= mail.priority <= 9
    mailing = Mailing(
        reverse_path=mail.reverse_path,
        recipients=(_MAILBOX,),
        octets=mail.size_octets or 0,
        eight_bit=mail.body is BodyType.EIGHT_BIT_MIME,
        smtputf8=mail.smtputf8,
        requests=Requests(returns=mail.returns, envelope_id=mail.envelope_id, priority=mail.priority or 0),
    )
    again = parse_mail(_written(mailing, 0), announced=ANNOUNCED, size_limit_octets=SIZE_OCTETS)
    assert isinstance(again, Mail), again
    assert (again.reverse_path, again.size_octets or 0) == (mail.reverse_path, mail.size_octets or 0)
    assert again.body == mail.body or mail.body is BodyType.BINARY_MIME  # which never leaves as such
    assert (again.returns, again.envelope_id) == (mail.returns, mail.envelope_id)
    assert (again.smtputf8, again.priority or 0) == (mail.smtputf8, mail.priority or 0)


def _check_rcpt(rcpt: Rcpt) -> None:
    check_address(rcpt.forward_path)
    original = rcpt.original_recipient
    assert original is None or (
        0 < len(original.address) <= ORIGINAL_RECIPIENT_OCTETS and not _CONTROL.search(original.address)
    )
    mailing = Mailing(
        reverse_path=None,
        recipients=(rcpt.forward_path,),
        octets=0,
        smtputf8=True,
        asked=(Asked(rcpt.notify, original),),
    )
    written = _written(mailing, 1)
    assert len(written.partition(b" ORCPT=")[2]) <= ORIGINAL_RECIPIENT_OCTETS, "the next host would refuse it"
    again = parse_rcpt(written, announced=ANNOUNCED, is_utf8=True)
    assert again == rcpt


def run_sasl(octets: bytes) -> None:
    """Lead an exchange with these lines, the first of which may be empty: then there is no initial response."""
    choices = Choices(octets)
    mechanism, make = list(MECHANISMS.items())[choices.number() % len(MECHANISMS)]
    exchange = make()
    first, *others = choices.rest().split(b"\n")
    lines: list[bytes] = []
    try:
        for line in [first or None, *others[:3]]:
            lines += [] if line is None else [line]
            said = exchange.step(line)
            check(mechanism, lines, said)
            if isinstance(said, KeysWanted):
                assert isinstance(exchange, ScramExchange)
                assert exchange.give_keys(KEYS, NONCE).octets == server_first(base64.b64decode(line or b""))
            elif not isinstance(said, Challenge):
                _check_end(exchange, said, others)
                break
    except SaslError as error:
        assert str(error).isascii()


def _check_end(exchange: object, said: object, lines: list[bytes]) -> None:
    """Check what comes after the end: a token that is refused, or what our client makes of the same credentials."""
    if isinstance(said, Bearer):
        assert isinstance(exchange, BearerExchange)
        check_refusal(exchange.refuse())
        answer = lines[0] if lines else b""
        try:
            exchange.step(answer)
        except SaslRefusedError:
            assert answer != b"*"
        except SaslCancelledError:
            assert answer == b"*"
        else:
            raise AssertionError("a token that was refused")
    elif isinstance(said, Credentials):
        plain = plain_initial_response(said.username.decode(), said.password.decode(), said.authorization_id.decode())
        assert MECHANISMS["PLAIN"]().step(plain) == said


def run_status(octets: bytes) -> None:
    """Parse an enhanced status, and xtext."""
    text = octets.decode("utf-8", "replace")
    status = EnhancedStatus.parse(text)
    if status is not None:
        assert text.partition(" ")[0].isascii()
        assert EnhancedStatus.parse(str(status)) == status
        assert [int(part) for part in text.partition(" ")[0].split(".")] == [status.kind, status.subject, status.detail]
    decoded = grammar.decode_xtext(octets)
    if decoded is not None and decoded.isascii():
        again = grammar.encode_xtext(decoded.decode("ascii")).encode("ascii")
        assert grammar.decode_xtext(again) == decoded
        assert len(again) <= len(octets)


def run_replies(octets: bytes) -> None:
    """Read replies, whole and octet by octet; write what was read, and any text as a reply, and read it again."""
    whole, single = _replies(octets, 0), _replies(octets, 2)
    assert whole == single
    for reply in whole[0]:
        offered = capabilities(reply)
        assert all(keyword and keyword == keyword.upper() and " " not in keyword for keyword in offered)
        _check_written(reply)
    lines = tuple(octets.decode("utf-8", "replace").split("\n"))
    status = EnhancedStatus.parse(lines[0]) or EnhancedStatus(5, 1, 1)
    _check_written(Reply(status.kind * 100 + 50, lines, status))


def _replies(octets: bytes, cut: int) -> tuple[list[Reply], str]:
    reader, found = ReplyReader(), []
    try:
        for piece in pieces(octets, cut):
            reader.receive(piece)
            while (reply := reader.next_reply()) is not None:
                found.append(reply)
        assert kept(reader) <= 2 * PENDING_OCTETS
    except RemoteProtocolError as error:
        assert str(error).isascii()
        assert str(error).isprintable()
        return found, str(error)
    return found, ""


def _check_written(reply: Reply) -> None:
    wire = format_reply(reply)
    found = _REPLY.fullmatch(wire)
    assert found is not None, wire
    lines = wire.split(b"\r\n")[:-1]
    assert all(len(line) + 2 <= LINE_OCTETS for line in lines)
    assert {line[:3] for line in lines} == {str(reply.code).encode()}
    if len(lines) <= REPLY_LINES:
        (again,), error = _replies(wire, 0)
        assert not error
        assert again.code == reply.code
        if reply.enhanced is not None and reply.enhanced.kind == reply.code // 100:
            assert again.enhanced == reply.enhanced


TARGETS: Final = (
    Target("address", "addresses of the envelope", run_address, most_octets=400),
    Target("return-path", "reverse-paths that are rewritten for forwarding, and restored", run_return_path, most_octets=400),
    Target("parameters", "the paths and parameters of MAIL and RCPT, read and written", run_parameters),
    Target("sasl", "SASL exchanges of the server, by every mechanism", run_sasl),
    Target("status", "enhanced status codes, and xtext", run_status, most_octets=100),
    Target("replies", "replies that a client reads, and those that we write", run_replies),
)
