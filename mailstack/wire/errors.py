"""
Errors of the cores.

A server core never raises for what its peer does: that is an event. So an exception out of a core is a bug of ours, but for
`RemoteProtocolError`, which client cores raise when the server cannot be understood, and `SaslError`, which stays inside.
"""

from __future__ import annotations


class LocalProtocolError(Exception):
    """We used a core wrongly: a bug."""


class RemoteProtocolError(Exception):
    """The peer broke the protocol; the text says how, in printable ASCII."""


class SaslError(Exception):
    """A SASL exchange ended without credentials."""


class SaslCancelledError(SaslError):
    """The client cancelled the exchange with `*` (RFC 4954 §4)."""


class SaslMalformedError(SaslError):
    """The client's response cannot be decoded."""


class SaslRefusedError(SaslError):
    """What the client has shown is not right, and it was told so in the exchange."""


class SaslBindingError(SaslError):
    """The client does not see the TLS session that we see, or not what we offered in it: somebody may sit in between."""
