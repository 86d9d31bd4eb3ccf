"""
What became of TLS with another server, as reports of it tell (RFC 8460 §4.3, §4.4).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class TLSFailure(enum.Enum):
    """Why a session had no TLS, or not the TLS that the domain's policy wants (RFC 8460 §4.3)."""

    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION_FAILURE = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


@dataclass(frozen=True, slots=True)
class AppliedPolicy:
    """
    The policy under which a session was made (RFC 8460 §4.4, "policy").

    Shape:  `kind` is "tlsa", "sts" or "no-policy-found"; `domain` is the policy domain: of DANE the TLSA base domain, else the
            domain of the recipients; `strings` is the policy as it was found, `hosts` the MX patterns of MTA-STS.
    """

    kind: str
    domain: str
    strings: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


NOT_REPORTED: Final = AppliedPolicy("no-policy-found", "")
"""Of a session that no domain wants to hear of: one with a smarthost, or with an address."""
