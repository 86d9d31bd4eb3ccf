from __future__ import annotations

import base64
import email
import gzip
import json

import pytest

from mailstack.mail.address import Address
from mailstack.mail.tls_reports import (
    Line,
    Post,
    ReportSource,
    file_name,
    parse_record,
    report_document,
    report_message,
)
from mailstack.mail.tls_results import AppliedPolicy, TLSFailure

SOURCE = ReportSource("Company-X", Address("sts-reporting", "company-x.example"), "company-x.example")
STS = AppliedPolicy("sts", "company-y.example", ("version: STSv1", "mode: testing"), ("*.mail.company-y.example",))
NONE = AppliedPolicy("no-policy-found", "company-y.example")


class TestRecord:
    @pytest.mark.parametrize(
        ("text", "places"),
        [
            (b"v=TLSRPTv1; rua=mailto:reports@example.com;", (Address("reports", "example.com"),)),
            (b"v=TLSRPTv1;rua=mailto:a%2Cb@example.com?subject=x", None),
            (
                b"v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt , mailto:r@Example.com",
                (Post("reporting.example.com", None, "/v1/tlsrpt"), Address("r", "example.com")),
            ),
            (b"v=TLSRPTv1 ; more=x; rua=HTTPS://example.com:8443", (Post("example.com", 8443, "/"),)),
            (b"v=TLSRPTv1; rua=http://example.com/,ftp:x,mailto:nobody,mailto:r@example.com", (Address("r", "example.com"),)),
            (b"v=TLSRPTv1; rua=https://[::1]/x,https://a@b.test/,https://x.test:99999/,mailto:%ff@x.test", ()),
            (b"v=TLSRPTv1; rua=" + b",".join(b"mailto:%d@x.test" % n for n in range(9)), 5),
            (b"v=TLSRPTv1; rua=mailto:r@x.test,mailto:r@X.test,mailto:r@x.test", (Address("r", "x.test"),)),
            (b"v=TLSRPTv1;", ()),
            (b"v=TLSRPTv2; rua=mailto:reports@example.com", ()),
            (b"v=TLSRPTv1; rua=mailto:r\xc3\xbc@example.com", ()),
        ],
    )
    def test_places(self, text: bytes, places: object) -> None:
        found = parse_record([b"something else", text])
        if isinstance(places, int):
            assert len(found) == places
        elif places is not None:
            assert found == places
        else:
            assert [str(each) for each in found] in (['"a,b"@example.com'], [])

    def test_two_are_none(self) -> None:
        assert parse_record([b"v=TLSRPTv1; rua=mailto:a@x.test"] * 2) == ()
        assert parse_record([]) == ()


LINES = (
    Line(STS, None, 5_326),
    Line(STS, TLSFailure.CERTIFICATE_EXPIRED, 100, "mx1.mail.company-y.example", "203.0.113.56", "2001:db8::1", "it is old"),
    Line(STS, TLSFailure.STARTTLS_NOT_SUPPORTED, 203, "mx2.mail.company-y.example", "203.0.113.58"),
    Line(NONE, None, 1),
)


def test_a_report() -> None:
    """Like the example of RFC 8460, appendix B."""
    document = json.loads(report_document(LINES, SOURCE, "5065427c@company-x.example", "2016-04-01"))
    assert document["date-range"] == {"start-datetime": "2016-04-01T00:00:00Z", "end-datetime": "2016-04-01T23:59:59Z"}
    assert document["organization-name"] == "Company-X"
    assert document["contact-info"] == "sts-reporting@company-x.example"
    assert document["report-id"] == "5065427c@company-x.example"
    sts, none = document["policies"]
    assert sts["policy"] == {
        "policy-type": "sts",
        "policy-string": ["version: STSv1", "mode: testing"],
        "policy-domain": "company-y.example",
        "mx-host": ["*.mail.company-y.example"],
    }
    assert sts["summary"] == {"total-successful-session-count": 5326, "total-failure-session-count": 303}
    assert sts["failure-details"] == [
        {
            "result-type": "certificate-expired",
            "sending-mta-ip": "2001:db8::1",
            "receiving-mx-hostname": "mx1.mail.company-y.example",
            "receiving-ip": "203.0.113.56",
            "failed-session-count": 100,
            "failure-reason-code": "it is old",
        },
        {
            "result-type": "starttls-not-supported",
            "receiving-mx-hostname": "mx2.mail.company-y.example",
            "receiving-ip": "203.0.113.58",
            "failed-session-count": 203,
        },
    ]
    assert none == {
        "policy": {"policy-type": "no-policy-found", "policy-domain": "company-y.example"},
        "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
    }


def test_a_message_of_it() -> None:
    zipped = gzip.compress(report_document(LINES, SOURCE, "5065427c@company-x.example", "2016-04-01"))
    file = file_name(SOURCE, "company-y.example", 1459468800, 1459555199)
    octets = report_message(
        zipped, SOURCE, "company-y.example", Address("r", "company-y.example"), "5065427c@company-x.example", "date", file
    )
    assert all(len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in octets.split(b"\r\n"))
    assert octets.isascii()
    message = email.message_from_bytes(octets)
    assert (message.get_content_type(), message.get_param("report-type")) == ("multipart/report", "tlsrpt")
    assert message["TLS-Report-Domain"] == "company-y.example"
    assert message["TLS-Report-Submitter"] == "company-x.example"
    assert message["TLS-Required"] == "No"
    assert message["Subject"] == (
        "Report Domain: company-y.example Submitter: company-x.example Report-ID: <5065427c@company-x.example>"
    )
    text, attached = message.get_payload()
    assert text.get_content_type() == "text/plain"
    assert attached.get_content_type() == "application/tlsrpt+gzip"
    assert attached.get_filename() == "company-x.example!company-y.example!1459468800!1459555199.json.gz"
    assert json.loads(gzip.decompress(base64.b64decode(attached.get_payload())))["report-id"] == "5065427c@company-x.example"
