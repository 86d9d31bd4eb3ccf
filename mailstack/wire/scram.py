"""
The exchange of SCRAM-SHA-256, with and without channel binding: the server's side and the client's.

    client   n,,n=alice,r=C                    who I am, and a nonce
    server   r=CS,s=salt,i=60000               what to salt the password with, and a nonce
    client   c=biws,r=CS,p=proof               what nobody could make without the password
    server   v=signature                       what nobody could make without the keys
    client   (nothing)                         RFC 4954 §4 has no room for the signature beside the 235

With -PLUS, `p=tls-exporter` stands for the n, and after `c=` what only the two ends of this TLS session know: so nobody in
between can pass on the messages of one session in another. A client that says y knows channel binding and saw us not offer it.
If we did, somebody has taken it out of our reply.

The signature is sent to nobody whose proof is wrong: it is all that one needs to try passwords without asking us.

Source:  RFC 5802 §5, §6, §7; RFC 7677; RFC 9266 and RFC 5929 for the kinds of channel binding.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

from mailstack.mail.saslprep import saslprep
from mailstack.mail.scram import MIN_ITERATIONS, ScramKeys, ScramProof, client_proof, salted_password, server_signature
from mailstack.wire.errors import LocalProtocolError, RemoteProtocolError, SaslBindingError, SaslMalformedError
from mailstack.wire.sasl import IDENTITY_OCTETS, Challenge, KeysWanted, Said, decode_response

Bindings = Mapping[str, bytes]
"""What both ends of a TLS session know of it, by the name of the kind: "tls-exporter", "tls-server-end-point"."""

MESSAGE_OCTETS: Final = 2_048
MAX_ITERATIONS: Final = 1_000_000
"""That a server may ask of us: a third of a second."""
_PREFERRED: Final = ("tls-exporter", "tls-server-end-point")  # RFC 9266 §1: the first where there is one

_NONCE: Final = rb"[!-+\--~]{1,256}"
_NAME: Final = rb"[^,\x00]{1,765}"
_EXTENSIONS: Final = rb"(?:,[A-Za-z]=[^,\x00]+)*+"
# client-first-message, without the reserved m= which must fail (RFC 5802 §5.1)
_CLIENT_FIRST: Final = re.compile(
    rb"((?P<flag>[ny]|p=(?P<kind>[A-Za-z0-9.-]{1,64})),(?:a=(?P<other>%b))?,)"
    rb"(?P<bare>n=(?P<user>%b),r=(?P<nonce>%b)%b)" % (_NAME, _NAME, _NONCE, _EXTENSIONS)
)
_SERVER_FIRST: Final = re.compile(
    rb"r=(?P<nonce>%b),s=(?P<salt>[A-Za-z0-9+/=]{4,344}),i=(?P<iterations>[1-9][0-9]{0,8})%b" % (_NONCE, _EXTENSIONS)
)
_CLIENT_FINAL: Final = re.compile(
    rb"(?P<proven>c=(?P<channel>[A-Za-z0-9+/=]{4,1024}),r=(?P<nonce>%b)(?:,[A-Za-oq-z]=[^,\x00]+)*+),"
    rb"p=(?P<proof>[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)" % _NONCE  # no bit may be set that does not count
)
_ESCAPE: Final = re.compile(rb"=(2C|3D|)")


class ScramExchange:
    """
    The server's side.

    Shape:  `bindings` is what is known of the TLS session, and nothing when we do not offer -PLUS; `plus`: the client asked for
            -PLUS.
    """

    def __init__(self, bindings: Bindings, *, plus: bool) -> None:
        self._bindings = bindings
        self._plus = plus
        self._next: Callable[[bytes], Said] = self._take_first
        self._channel = b""  # what the client must say after c=
        self._bare = b""
        self._username = b""
        self._authorization_id = b""
        self._nonce = b""
        self._first = b""
        self._wants_keys = False
        self._keys: ScramKeys | None = None
        self._proof: ScramProof | None = None

    def step(self, line: bytes | None) -> Said:
        """Take the client's line."""
        if line is None:
            return Challenge(b"")
        message = decode_response(line)
        if len(message) > MESSAGE_OCTETS:
            raise SaslMalformedError("too long")
        return self._next(message)

    def give_keys(self, keys: ScramKeys, nonce: str) -> Challenge:
        """
        Go on with the keys of the user, and a nonce of printable ASCII without comma that is new each time.

        Raises:  LocalProtocolError: they were not asked for.
        """
        if not self._wants_keys:
            raise LocalProtocolError("no keys were asked for")
        self._wants_keys, self._keys = False, keys
        self._nonce += nonce.encode("ascii")
        salt = base64.b64encode(keys.salt)
        self._first = b"r=%b,s=%b,i=%d" % (self._nonce, salt, keys.iterations)
        self._next = self._take_final
        return Challenge(self._first)

    def _take_first(self, message: bytes) -> KeysWanted:
        found = _CLIENT_FIRST.fullmatch(message)
        if found is None:
            raise SaslMalformedError("not a client-first-message")
        self._channel = found[1] + self._bound(found["flag"], found["kind"])
        self._username = _read_name(found["user"])
        self._authorization_id = _read_name(found["other"]) if found["other"] else b""
        self._bare, self._nonce = found["bare"], found["nonce"]
        self._wants_keys, self._next = True, self._out_of_turn
        return KeysWanted(self._username)

    def _bound(self, flag: bytes, kind: bytes | None) -> bytes:
        """Return what the client must know of the TLS session (RFC 5802 §6)."""
        if self._plus is not (kind is not None):
            raise SaslMalformedError("-PLUS and p= go together")
        if kind is None:
            if flag == b"y" and self._bindings:
                raise SaslBindingError("the client did not see that we offer -PLUS")
            return b""
        known = self._bindings.get(kind.decode("ascii"))
        if known is None:
            raise SaslBindingError("a channel binding that we do not have")
        return known

    def _take_final(self, message: bytes) -> ScramProof | Challenge:
        found = _CLIENT_FINAL.fullmatch(message)
        if found is None or found["nonce"] != self._nonce:
            raise SaslMalformedError("not a client-final-message, or not to ours")
        if not hmac.compare_digest(_decoded(found["channel"]), self._channel):
            raise SaslBindingError("another TLS session, or another beginning")
        assert self._keys is not None, "given before"
        auth_message = b"%b,%b,%b" % (self._bare, self._first, found["proven"])
        proof = ScramProof(self._username, auth_message, _decoded(found["proof"]), self._authorization_id)
        self._next = self._out_of_turn
        if proof.acts_for_other or not proof.is_by(self._keys):
            return proof
        self._proof, self._next = proof, self._take_nothing
        return Challenge(b"v=" + base64.b64encode(self._keys.signature(auth_message)))

    def _take_nothing(self, message: bytes) -> ScramProof:
        if message:
            raise SaslMalformedError("nothing was to come")
        assert self._proof is not None, "made before"
        self._next = self._out_of_turn
        return self._proof

    def _out_of_turn(self, message: bytes) -> Said:
        raise LocalProtocolError("it is not the client's turn")


class ScramClient:
    """
    The client's side.

    Shape:   `nonce` is printable ASCII without comma, new each time; `bindings` is what is known of the TLS session, and
             nothing when the server does not offer -PLUS. Octets are not encoded.
    Raises:  RemoteProtocolError from every step: the server is not to be trusted, or cannot be understood.
    """

    def __init__(
        self, username: str, password: str, nonce: str, bindings: Bindings | None = None, *, knows_binding: bool = False
    ) -> None:
        self._password = password.encode()
        self._nonce = nonce.encode("ascii")
        kind = next((each for each in _PREFERRED if each in (bindings or {})), None)
        flag = f"p={kind}" if kind is not None else "y" if knows_binding else "n"
        self._header = f"{flag},,".encode("ascii")
        self._channel = self._header + (bindings[kind] if bindings and kind is not None else b"")
        prepared = saslprep(username) or username
        self._bare = b"n=%b,r=%b" % (prepared.replace("=", "=3D").replace(",", "=2C").encode(), self._nonce)
        self._signature: bytes | None = None
        self.is_challenged = False
        """Whether the server has taken the first message."""
        self.is_verified = False
        """Whether the server has shown that it has the keys."""

    def first(self) -> bytes:
        """Return the first message."""
        return self._header + self._bare

    def final(self, challenge: bytes) -> bytes:
        """Return the answer to the server's first message; blocks for as long as the server's iterations take."""
        found = _SERVER_FIRST.fullmatch(challenge) if len(challenge) <= MESSAGE_OCTETS else None
        if found is None or not found["nonce"].startswith(self._nonce) or found["nonce"] == self._nonce:
            raise RemoteProtocolError("not a server-first-message of SCRAM, or not to ours")
        iterations = int(found["iterations"])
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise RemoteProtocolError(f"SCRAM with {iterations} iterations")
        try:
            salt = base64.b64decode(found["salt"], validate=True)
        except binascii.Error as error:
            raise RemoteProtocolError("a salt that is not base64") from error
        self.is_challenged = True
        proven = b"c=%b,r=%b" % (base64.b64encode(self._channel), found["nonce"])
        auth_message = b"%b,%b,%b" % (self._bare, challenge, proven)
        salted = _salted(self._password, salt, iterations)
        self._signature = server_signature(salted, auth_message)
        return b"%b,p=%b" % (proven, base64.b64encode(client_proof(salted, auth_message)))

    def verify(self, challenge: bytes) -> bytes:
        """Take the server's last message, which shows that it has the keys, too; return the empty answer."""
        if self._signature is None or not hmac.compare_digest(challenge, b"v=" + base64.b64encode(self._signature)):
            raise RemoteProtocolError("the server does not know the password")
        self.is_verified = True
        return b""


def challenge_of(text: str) -> bytes:
    """
    Decode what a server says, base64.

    Raises:  RemoteProtocolError.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise RemoteProtocolError("a challenge that is not base64") from error


_salted: Final = lru_cache(maxsize=8)(salted_password)  # a smarthost salts the same each time (RFC 5802 allows it)


def _read_name(octets: bytes) -> bytes:
    """Decode a saslname (RFC 5802 §5.1) and prepare it."""
    if any(not escaped for escaped in _ESCAPE.findall(octets)):
        raise SaslMalformedError("a name with = that is neither =2C nor =3D")
    try:
        text = octets.replace(b"=2C", b",").replace(b"=3D", b"=").decode("utf-8")
    except UnicodeDecodeError as error:
        raise SaslMalformedError("not UTF-8") from error
    name = (saslprep(text) or "").encode()
    if not name or len(name) > IDENTITY_OCTETS:
        raise SaslMalformedError("no name, or one of control characters, or too long")
    return name


def _decoded(octets: bytes) -> bytes:
    try:
        return base64.b64decode(octets, validate=True)
    except binascii.Error as error:
        raise SaslMalformedError("not base64") from error
