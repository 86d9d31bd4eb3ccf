"""The maildrop of RFC 1939 §3: what the store, which keeps it, and POP3, which shows it, both have to name."""

from __future__ import annotations


class MaildropLocked(Exception):  # noqa: N818 (it is a state, named as such)
    """Another session has the maildrop open; it can be had when that one ends (RFC 1939 §4)."""
