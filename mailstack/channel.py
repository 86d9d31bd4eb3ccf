"""
What a TLS session says of its two ends: octets that only they have in common, and whom the client's certificate names.

Source:  RFC 9266 (tls-exporter), RFC 5929 §4 (tls-server-end-point); RFC 5280 §4.2.1.6 (addresses in certificates).
"""

from __future__ import annotations

from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import MD5, SHA1, SHA256, Hash, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, ExtensionNotFound, RFC822Name, SubjectAlternativeName
from OpenSSL import SSL

_LABEL: Final = b"EXPORTER-Channel-Binding"
_EXPORTED_OCTETS: Final = 32


def channel_bindings(transport: Any, *, is_client: bool = False) -> dict[str, bytes]:
    """
    Return what is known of the TLS session of a transport after its handshake, by kind; nothing without TLS.

    The exporter of TLS 1.2 is left out: RFC 9266 §3 wants the extended master secret with it, and whether there is one, nobody
    tells us.
    """
    handle: Any = getattr(transport, "getHandle", lambda: None)()
    if not hasattr(handle, "export_keying_material"):
        return {}
    bindings = {}
    if handle.get_protocol_version_name() == "TLSv1.3":
        bindings["tls-exporter"] = handle.export_keying_material(_LABEL, _EXPORTED_OCTETS, b"")
    certificate = (handle.get_peer_certificate if is_client else handle.get_certificate)(as_cryptography=True)
    end_point = server_end_point(certificate) if certificate is not None else None
    if end_point is not None:
        bindings["tls-server-end-point"] = end_point
    return bindings


def certified_names(transport: Any) -> tuple[str, ...]:
    """Return the mail addresses in the certificate that the client has shown; none, if it was not verified."""
    handle: Any = getattr(transport, "getHandle", lambda: None)()
    if not hasattr(handle, "get_peer_certificate") or not handle.get_context().get_verify_mode() & SSL.VERIFY_PEER:
        return ()
    certificate: Certificate | None = handle.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        return ()
    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except (ExtensionNotFound, ValueError):  # the latter: an extension that cannot be parsed
        return ()
    return tuple(names.get_values_for_type(RFC822Name))


def server_end_point(certificate: Certificate) -> bytes | None:
    """Return the hash of a server's certificate, or None where its signature has no hash of its own: Ed25519, for one."""
    try:
        algorithm: HashAlgorithm | None = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    hashing = Hash(SHA256() if isinstance(algorithm, MD5 | SHA1) else algorithm)
    hashing.update(certificate.public_bytes(Encoding.DER))
    return hashing.finalize()
