"""
Transports: where the mail of a recipient goes, as the operator says it, instead of where its address says.

    mx                          the mail exchanges of the recipient's domain, as without an entry
    smtp:[HOST]  smtp:[HOST]:PORT    that host, a name or an IP address, without a look at MX records
    smtp:DOMAIN  smtp:DOMAIN:PORT    the mail exchanges of that domain
    lmtp:HOST:PORT  lmtp:[HOST]:PORT  lmtp:unix:/PATH    another program, which delivers (RFC 2033)
    local                       our own maildirs
    hold                        nowhere, until the operator says otherwise
    discard                     nowhere, and nobody is told
    error: 5.x.x TEXT           refused; with 4.x.x for the time being

The map finds the transport of an address: the most specific entry stands.

    alice+tag@example.org    the address
    alice@example.org        the same without its subaddress
    example.org              its domain
    .example.org             the domains below, the nearest entry first
    *                        every domain that is not ours

Pure; addresses are compared as the directory does it, in letters of any case.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Final

from mailstack.mail.address import Address, AddressError, parse_address, parse_domain
from mailstack.mail.reply import Reply
from mailstack.mail.status import EnhancedStatus

SMTP_PORT: Final = 25
LMTP_PORT: Final = 24
SOCKET_PATH_OCTETS: Final = 107  # sun_path of unix(7), with its NUL 108
TEXT_CHARACTERS: Final = 200
ANY: Final = "*"

_PORT: Final = re.compile(r"(.+):([0-9]{1,5})")
_ERROR: Final = re.compile(r"error: *([45]\.[0-9]{1,3}\.[0-9]{1,3}) +([ -~]*[!-~]) *")
_FORMS: Final = (
    '"mx", "smtp:[HOST]:PORT", "smtp:DOMAIN", "lmtp:HOST:PORT", "lmtp:unix:/PATH", "local", "hold", "discard" or '
    '"error: 5.7.1 TEXT"'
)


class TransportError(ValueError):
    """The text is no transport, or no pattern; the message says why, in words for the operator."""


@dataclass(frozen=True, slots=True)
class Mx:
    """The mail exchanges of the recipient's domain."""

    def __str__(self) -> str:
        return "mx"


@dataclass(frozen=True, slots=True)
class Smtp:
    """
    A host, or with `by_mx` the mail exchanges of a domain.

    Shape:  `host` is a name in lower case or an IP address without brackets.
    """

    host: str
    port: int = SMTP_PORT
    by_mx: bool = False

    def __str__(self) -> str:
        host = self.host if self.by_mx else f"[{self.host}]"
        return f"smtp:{host}" if self.port == SMTP_PORT else f"smtp:{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Lmtp:
    """
    Another program that delivers, by LMTP.

    Shape:  `host` is as that of Smtp, or the absolute path of a UNIX socket.
    """

    host: str
    port: int = LMTP_PORT

    @property
    def is_socket(self) -> bool:
        """Whether it is reached through a file."""
        return self.host.startswith("/")

    def __str__(self) -> str:
        return f"lmtp:unix:{self.host}" if self.is_socket else f"lmtp:[{self.host}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Local:
    """Our own maildirs."""

    def __str__(self) -> str:
        return "local"


@dataclass(frozen=True, slots=True)
class Hold:
    """It is accepted, and waits."""

    def __str__(self) -> str:
        return "hold"


@dataclass(frozen=True, slots=True)
class Discard:
    """It is accepted, and dropped."""

    def __str__(self) -> str:
        return "discard"


@dataclass(frozen=True, slots=True)
class Error:
    """It is refused, and what was accepted before fails; with a status of class 4 both for the time being."""

    status: EnhancedStatus
    text: str

    @property
    def reply(self) -> Reply:
        """The reply to RCPT."""
        return Reply(550 if self.status.is_permanent else 450, (self.text,), self.status)

    def __str__(self) -> str:
        return f"error: {self.status} {self.text}"


Transport = Mx | Smtp | Lmtp | Local | Hold | Discard | Error

_WORDS: Final[Mapping[str, Transport]] = {"mx": Mx(), "local": Local(), "hold": Hold(), "discard": Discard()}


def parse_transport(text: str) -> Transport:
    """
    Parse a transport.

    Raises:  TransportError.
    """
    if text in _WORDS:
        return _WORDS[text]
    kind, colon, rest = text.partition(":")
    if colon and kind == "smtp":
        return _smtp(rest)
    if colon and kind == "lmtp":
        return _lmtp(rest)
    if colon and kind == "error":
        return _error(text)
    raise TransportError(f"is no transport: it must be {_FORMS}")


def _smtp(rest: str) -> Smtp:
    name, port = _split_port(rest, SMTP_PORT)
    if name.startswith("["):
        return Smtp(_host(name), port)
    if _is_ip(name):
        raise TransportError(f"must have the IP address in brackets: smtp:[{name}]")
    return Smtp(_name(name), port, by_mx=True)


def _lmtp(rest: str) -> Lmtp:
    if rest.startswith("unix:"):
        path = rest.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise TransportError("must name the socket by its whole path, such as lmtp:unix:/run/dovecot/lmtp")
        if len(path.encode("utf-8", "surrogateescape")) > SOCKET_PATH_OCTETS:
            raise TransportError(f"has a longer path than the {SOCKET_PATH_OCTETS} octets that a socket may have")
        return Lmtp(path, 0)
    name, port = _split_port(rest, LMTP_PORT)
    return Lmtp(_host(name), port)


def _error(text: str) -> Error:
    found = _ERROR.fullmatch(text)
    if found is None or len(found.group(2)) > TEXT_CHARACTERS:
        raise TransportError(
            f'must be text of the form "error: 5.7.1 Why it is refused", in ASCII, of {TEXT_CHARACTERS} characters at most'
        )
    status = EnhancedStatus.parse(found.group(1))
    assert status is not None, "the form is the same"
    return Error(status, found.group(2))


def _split_port(text: str, default: int) -> tuple[str, int]:
    if text.endswith("]") or _is_ip(text):
        return text, default
    found = _PORT.fullmatch(text)
    if found is None:
        return text, default
    port = int(found.group(2))
    if not 1 <= port <= 65_535:
        raise TransportError(f"has a port that does not exist: {port}")
    return found.group(1), port


def _host(text: str) -> str:
    """Parse a host, with or without brackets: a name or an IP address."""
    name = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    address = name[5:] if name[:5].lower() == "ipv6:" else name
    return ipaddress.ip_address(address).compressed if _is_ip(address) else _name(name)


def _name(text: str) -> str:
    try:
        name = parse_domain(text)
    except AddressError:
        name = ""
    if not name or name.startswith("["):
        raise TransportError(f"names no host: {_shown(text)}")
    return name


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def parse_pattern(text: str) -> str:
    """
    Parse what stands left in the map, into its one form.

    Raises:  TransportError.
    """
    if text == ANY:
        return text
    try:
        if "@" in text:
            return _key(parse_address(text))
        if text.startswith("."):
            return f".{_name(text[1:])}"
        return parse_domain(text)
    except AddressError as error:
        raise TransportError(f"is neither an address, nor a domain, nor .domain, nor *: {error}") from None


def _key(address: Address) -> str:
    return str(Address(address.local_part.lower(), address.domain))


def _shown(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80]) or "nothing"


class TransportMap:
    """
    Says where the mail for an address goes.

    Shape:  `entries` by pattern, as `parse_pattern` makes it; `delimiter` separates a subaddress, "" for none; of
            `open_domains` every address is taken when their mail goes elsewhere.
    """

    def __init__(
        self, entries: Mapping[str, Transport] | None = None, *, delimiter: str = "+", open_domains: Set[str] = frozenset()
    ) -> None:
        self._entries = dict(entries or {})
        self._delimiter = delimiter
        self._open_domains = frozenset(open_domains)

    @property
    def is_empty(self) -> bool:
        """Whether nothing goes anywhere but where its destination says."""
        return not self._entries

    def of(self, address: Address, *, is_ours: bool) -> Transport | None:
        """
        Return the transport of an address, or None: as its destination says.

        Shape:  `is_ours`: its domain is, or it belongs to an account; the entry for every domain is not for us.
        """
        if not self._entries:
            return None
        for pattern in self._patterns(address):
            if (found := self._entries.get(pattern)) is not None:
                return found
        return None if is_ours else self._entries.get(ANY)

    def is_taken(self, address: Address) -> bool:
        """
        Say whether an address of ours is accepted although the directory does not know it.

        Shape:  it has an entry of its own; or all of its domain are taken, and its mail does not stay here.
        """
        if not self._entries or isinstance(self.of(address, is_ours=True), Local | None):
            return False
        return address.domain in self._open_domains or any(each in self._entries for each in self._addresses(address))

    def _patterns(self, address: Address) -> Iterator[str]:
        yield from self._addresses(address)
        yield address.domain
        if not address.is_literal:
            dot = address.domain.find(".")
            while dot >= 0:
                yield address.domain[dot:]
                dot = address.domain.find(".", dot + 1)

    def _addresses(self, address: Address) -> Iterator[str]:
        yield _key(address)
        user, delimiter, _ = address.local_part.partition(self._delimiter) if self._delimiter else (address.local_part, "", "")
        if user and delimiter:
            yield _key(Address(user, address.domain))
