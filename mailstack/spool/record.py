"""
Records: an envelope as one line of versioned JSON, the form in which it is on disk.

Read strictly: what this module has not written is a RecordError, never a half-right envelope.
"""

from __future__ import annotations

import json
from typing import Any, Final

from mailstack.mail.address import Address
from mailstack.mail.envelope import Account, BodyType, Destination, Envelope, Origin, Recipient, Remote, Service
from mailstack.mail.requests import NO_REQUESTS, DeliverBy, Notify, OriginalRecipient, Requests, Return

VERSION: Final = 1

_encode: Final = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode  # made once: json.dumps makes one a call


class RecordError(ValueError):
    """The text is not an envelope that this version can read."""


def format_envelope(envelope: Envelope) -> str:
    """Write an envelope."""
    origin = envelope.origin
    return _encode(
        {
            "version": VERSION,
            "from": _pair(envelope.reverse_path) if envelope.reverse_path else None,
            "to": [_format_recipient(each) for each in envelope.recipients],
            "accepted_at": envelope.accepted_at,
            "body": envelope.body.value,
            "smtputf8": envelope.smtputf8,
            "requests": _format_requests(envelope.requests),
            "origin": {
                "service": origin.service.value,
                "peer": origin.peer,
                "hello": origin.hello,
                "extended": origin.extended,
                "tls": origin.tls,
                "account": origin.account,
                "session": origin.session,
                "name": origin.name,
            },
        }
    )


def parse_envelope(text: object) -> Envelope:
    """
    Read an envelope.

    Raises:  RecordError.
    """
    if not isinstance(text, str) or not text.isascii():
        raise RecordError("not our text")
    try:
        fields = json.loads(text)
        if fields["version"] != VERSION:
            raise RecordError(f"version {fields['version']!r}")
        recipients = tuple(_parse_recipient(each) for each in fields["to"])
        if not recipients:
            raise RecordError("no recipients")
        return Envelope(
            reverse_path=_parse_address(fields["from"]) if fields["from"] is not None else None,
            recipients=recipients,
            origin=_parse_origin(fields["origin"]),
            accepted_at=float(fields["accepted_at"]),
            body=BodyType(fields["body"]),
            smtputf8=_is(bool, fields["smtputf8"]),
            requests=_parse_requests(fields.get("requests")),
        )
    except RecordError:
        raise
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        raise RecordError(f"{type(error).__name__}: {error}") from error


def _pair(address: Address) -> list[str]:
    return [address.local_part, address.domain]


def _format_recipient(recipient: Recipient) -> list[Any]:
    destination = recipient.destination
    kind, name = ("account", destination.name) if isinstance(destination, Account) else ("remote", destination.domain)
    fields: list[Any] = [_pair(recipient.address), _pair(recipient.original), kind, name]
    notify, original = recipient.notify, recipient.original_recipient
    if notify is not None or original is not None or recipient.is_expanded:
        fields.append(sorted(each.value for each in notify) if notify is not None else None)
        fields.append([original.kind, original.address] if original is not None else None)
    if recipient.is_expanded:
        fields.append(True)
    return fields


def _parse_recipient(fields: Any) -> Recipient:
    address, original, kind, name, *more = fields
    _is(str, name)
    destination: Destination
    if kind == "account":
        destination = Account(name)
    elif kind == "remote":
        destination = Remote(name)
    else:
        raise RecordError(f"destination {kind!r}")
    if len(more) not in (0, 2, 3):  # older records have fewer
        raise RecordError(f"a recipient of {len(fields)} fields")
    notify, asked_for, is_expanded = list(more) + [None, None, False][len(more) :]
    return Recipient(
        address=_parse_address(address),
        original=_parse_address(original),
        destination=destination,
        notify=frozenset(map(Notify, notify)) if notify is not None else None,
        original_recipient=OriginalRecipient(_is(str, asked_for[0]), _is(str, asked_for[1])) if asked_for is not None else None,
        is_expanded=_is(bool, is_expanded),
    )


def _format_requests(requests: Requests) -> dict[str, Any] | None:
    if requests == NO_REQUESTS:
        return None
    by = requests.deliver_by
    return {
        "returns": requests.returns.value if requests.returns else None,
        "envelope_id": requests.envelope_id,
        "requires_tls": requests.requires_tls,
        "priority": requests.priority,
        "deliver_by": [by.deadline, by.returns, by.traces] if by else None,
        "held_until": requests.held_until,
        "tls_optional": requests.tls_optional,
    }


def _parse_requests(fields: Any) -> Requests:
    if fields is None:  # as in records that are older than requests
        return NO_REQUESTS
    returns, by = fields["returns"], fields["deliver_by"]
    return Requests(
        returns=Return(returns) if returns is not None else None,
        envelope_id=_is((str, type(None)), fields["envelope_id"]),
        requires_tls=_is(bool, fields["requires_tls"]),
        priority=_is(int, fields["priority"]),
        deliver_by=DeliverBy(float(by[0]), _is(bool, by[1]), _is(bool, by[2])) if by is not None else None,
        held_until=float(fields["held_until"]) if fields["held_until"] is not None else None,
        tls_optional=_is(bool, fields.get("tls_optional", False)),  # older records have none
    )


def _parse_address(fields: Any) -> Address:
    local_part, domain = fields
    return Address(_is(str, local_part), _is(str, domain))


def _parse_origin(fields: Any) -> Origin:
    return Origin(
        service=Service(fields["service"]),
        peer=_is(str, fields["peer"]),
        hello=_is(str, fields["hello"]),
        extended=_is(bool, fields["extended"]),
        tls=_is((str, type(None)), fields["tls"]),
        account=_is((str, type(None)), fields["account"]),
        session=_is(str, fields["session"]),
        name=_is(str, fields.get("name", "")),  # older records have none
    )


def _is(kind: type | tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kind):
        raise RecordError(f"unexpected {value!r}")
    return value
