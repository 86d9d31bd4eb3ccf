"""
VALUES: the nouns of mail, as frozen values that every room shares.

For: addresses, envelopes, replies, statuses, verdicts, dispositions, header sections, trace fields, delivery status
notifications, return addresses (SRS), and what is kept of a password for SCRAM. A value is parsed once, at the border, and
never changes after that. Of MIME no more is read than it takes to encode the binary parts of a content, while it comes in.

Knows: nothing but the standard library, and of that neither os nor socket, time, random or threading. Clock, identifiers
and octets come as arguments.

Carries: RFC 5321 §2.3, §4.1.2, §4.4 (addresses, trace) · RFC 3463 (enhanced status) · RFC 3464 (DSN) · RFC 5322 §2.2 (header
section) · RFC 2045 §5, §6, RFC 2046 §5, RFC 3030 §3 (binary parts) · RFC 5322 §3.4, RFC 6854 (authors) · RFC 6531 (UTF-8
addresses) · RFC 4013 (SASLprep) · RFC 5802 §3, RFC 5803 (SCRAM's keys).
"""
