"""
Reports of TLS: whom a domain wants to be told, and the text of what it is told. Pure.

Source:  RFC 8460 §3 (the record), §4 (the report), §5.3 (the message), §5.1 (the name of the file).
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from mailstack.mail.address import Address, AddressError, parse_address, parse_domain
from mailstack.mail.tls_results import AppliedPolicy, TLSFailure

MAX_PLACES: Final = 5
MAX_DETAILS: Final = 1_000
MEDIA_TYPE: Final = "application/tlsrpt+gzip"

_VERSION: Final = re.compile(rb"v=TLSRPTv1[ \t]*;")
_HTTPS: Final = re.compile(r"https://([A-Za-z0-9.-]{1,255})(?::([0-9]{1,5}))?(/[\x21-\x7e]{0,500})?", re.IGNORECASE)
_LINE_OCTETS: Final = 76


@dataclass(frozen=True, slots=True)
class Post:
    """A place that takes reports by HTTPS; `port` None is the usual one."""

    host: str
    port: int | None
    path: str


Place = Address | Post
"""Where a report goes: to a mailbox, or to a page."""


@dataclass(frozen=True, slots=True)
class Line:
    """
    So many sessions that went the same way.

    Shape:  `failure` None: they were within the TLS that was wanted; then the rest is empty. `address` is the host's, and
            `own_address` ours; `why` is printable text.
    """

    applied: AppliedPolicy
    failure: TLSFailure | None
    sessions: int
    host: str = ""
    address: str = ""
    own_address: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class ReportSource:
    """Who reports: the name of the organisation, the address of one to ask, and the domain that the reports come from."""

    organisation: str
    contact: Address
    domain: str


def parse_record(texts: Sequence[bytes]) -> tuple[Place, ...]:
    """
    Return the places that the one TLSRPT record among the TXT records of `_smtp._tls.DOMAIN` names.

    Shape:  none: there is no record, or there are several, or nothing in it can be used.
    """
    records = [each for each in texts if _VERSION.match(each)]
    if len(records) != 1 or not records[0].isascii():
        return ()
    for part in records[0].decode("ascii").split(";")[1:]:
        name, found, value = part.strip(" \t").partition("=")
        if found and name == "rua":
            places = [_place(each.strip(" \t")) for each in value.split(",")[:MAX_PLACES]]
            return tuple(dict.fromkeys(each for each in places if each is not None))
    return ()


def _place(uri: str) -> Place | None:
    try:
        if uri.lower().startswith("mailto:"):
            return parse_address(unquote(uri[7:].partition("?")[0], errors="strict"))
        if (found := _HTTPS.fullmatch(uri)) is not None and int(found.group(2) or 443) < 65_536:
            return Post(parse_domain(found.group(1)), int(found.group(2)) if found.group(2) else None, found.group(3) or "/")
    except (AddressError, UnicodeError):
        pass
    return None


def report_document(lines: Sequence[Line], source: ReportSource, report_id: str, day: str) -> bytes:
    """Write the report about one domain and one day, `2026-11-26`, as JSON."""
    policies: dict[AppliedPolicy, list[Line]] = {}
    for line in lines:
        policies.setdefault(line.applied, []).append(line)
    document = {
        "organization-name": source.organisation,
        "date-range": {"start-datetime": f"{day}T00:00:00Z", "end-datetime": f"{day}T23:59:59Z"},
        "contact-info": str(source.contact),
        "report-id": report_id,
        "policies": [_policy(applied, each) for applied, each in policies.items()],
    }
    return json.dumps(document, indent=1).encode()


def _policy(applied: AppliedPolicy, lines: Sequence[Line]) -> dict[str, Any]:
    policy: dict[str, Any] = {"policy-type": applied.kind, "policy-domain": applied.domain}
    if applied.strings:
        policy["policy-string"] = applied.strings
    if applied.hosts:
        policy["mx-host"] = applied.hosts
    failures = [line for line in lines if line.failure is not None]
    document: dict[str, Any] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": sum(line.sessions for line in lines if line.failure is None),
            "total-failure-session-count": sum(line.sessions for line in failures),
        },
    }
    if failures:
        document["failure-details"] = [_detail(line) for line in failures[:MAX_DETAILS]]
    return document


def _detail(line: Line) -> dict[str, Any]:
    assert line.failure is not None
    found = {
        "result-type": line.failure.value,
        "sending-mta-ip": line.own_address,
        "receiving-mx-hostname": line.host,
        "receiving-ip": line.address,
        "failed-session-count": line.sessions,
        "failure-reason-code": line.why,
    }
    return {name: value for name, value in found.items() if value != ""}


def file_name(source: ReportSource, domain: str, begin: int, end: int) -> str:
    """Return the name of the file; the times are in seconds since 1970."""
    return f"{source.domain}!{domain}!{begin}!{end}.json.gz"


def report_message(
    zipped: bytes, source: ReportSource, domain: str, to: Address, report_id: str, date: str, file: str
) -> bytes:
    """
    Write the message that brings a report.

    It says that TLS may be done without for it (RFC 8689 §5): a report of what is wrong with TLS must not wait for that.
    """
    boundary = f"=_{report_id.partition('@')[0]}"
    encoded = b64encode(zipped).decode("ascii")
    body = [encoded[start : start + _LINE_OCTETS] for start in range(0, len(encoded), _LINE_OCTETS)]
    lines = [
        f"Date: {date}",
        f"From: <{source.contact}>",
        f"To: <{to}>",
        f"Subject: Report Domain: {domain} Submitter: {source.domain} Report-ID: <{report_id}>",
        f"Message-ID: <{report_id}>",
        f"TLS-Report-Domain: {domain}",
        f"TLS-Report-Submitter: {source.domain}",
        "TLS-Required: No",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type="tlsrpt";\r\n\tboundary="{boundary}"',
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"This is an aggregate report of the TLS sessions with the mail hosts of {domain},",
        f"from {source.domain}.",
        "",
        f"--{boundary}",
        f"Content-Type: {MEDIA_TYPE}",
        "Content-Transfer-Encoding: base64",
        f'Content-Disposition: attachment;\r\n\tfilename="{file}"',
        "",
        *body,
        f"--{boundary}--",
        "",
    ]
    return "\r\n".join(lines).encode()
