"""What strangers publish about TLS, in the DNS and on the Web: taken apart whatever it is, and within bounds."""

from __future__ import annotations

from fuzz.target import Target
from fuzz.values import check_address
from mailstack.mail import mta_sts, tls_reports
from mailstack.mail.address import Address


def run_published(octets: bytes) -> None:
    """Read the octets as an MTA-STS record, as a policy, and as a TLSRPT record."""
    name = mta_sts.parse_record([octets])
    assert name is None or (name.isascii() and name.isalnum() and len(name) <= 32)
    assert mta_sts.parse_record([octets, octets]) is None
    places = tls_reports.parse_record([octets])
    assert len(places) <= tls_reports.MAX_PLACES
    for place in places:
        if isinstance(place, Address):
            check_address(place)
        else:
            assert place.path.startswith("/")
            assert place.path.isascii()
            assert place.path.isprintable()
            assert " " not in place.path
    _run_policy(octets)


def _run_policy(octets: bytes) -> None:
    try:
        policy = mta_sts.parse_policy(octets)
    except mta_sts.PolicyError:
        return
    assert 0 <= policy.max_age_seconds <= mta_sts.MAX_AGE_SECONDS
    assert len(policy.hosts) <= mta_sts.MAX_PATTERNS
    assert policy.hosts or policy.mode is mta_sts.Mode.NONE
    assert mta_sts.parse_policy("\n".join(policy.lines()).encode()) == policy, "it is read as another"
    for host in policy.hosts:
        assert policy.matches(f"x{host[1:]}" if host.startswith("*.") else host)


TARGET = Target("published", "MTA-STS records and policies, TLSRPT records", run_published)
