"""
Kinds of values in the configuration: endpoints, names, paths and secrets, each parsed from its text or refused with a reason.

A path is resolved against the folder that the validation context names; without a context it is taken as it is and files are
not looked at, so that settings can also be made in code.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, Strict, ValidationInfo

from mailstack.mail.address import AddressError, parse_address, parse_domain
from mailstack.route.transport import Transport, TransportError, parse_pattern, parse_transport

_HOST_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_SECRET_OCTETS: Final = 4096
SECRET_CHARACTERS: Final = 16
_SOCKET_PATH_OCTETS: Final = 107  # sun_path of unix(7), with its NUL 108
_UNIX: Final = "unix:"
_GROUP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
_CLAIM: Final = re.compile(r"[!-~]{1,100}")
_SCOPES: Final = re.compile(r"[!#-\[\]-~]{1,100}(?: [!#-\[\]-~]{1,100}){0,9}")  # RFC 6749 §3.3
_URL_LETTERS: Final = re.compile(r"[!-~]{1,1000}")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_RATE: Final = re.compile(r"([1-9][0-9]{0,6})/(second|minute|hour)")
Unix = Literal["unix"]
"""Whoever may use the file of a UNIX socket of ours, in a list of networks."""
MOST_WORKERS: Final = 32
"""As many as the spool has shards."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and a TCP port; an IPv6 address stands without its brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _split_endpoint(text: object, example: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[^\[\]]*\]|[^:\[\]]*):([0-9]{1,5})", text) if isinstance(text, str) else None
    if not found or int(found.group(2)) > 65535:
        raise ValueError(f'must be text of the form "{example}" (IPv6 in brackets), not {shown(text)}')
    return found.group(1).removeprefix("[").removesuffix("]"), int(found.group(2))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def listen_endpoint(value: object) -> Endpoint:
    """
    Parse "ADDRESS:PORT"; port 0 means any free one.

    Raises:  ValueError.
    """
    if isinstance(value, Endpoint):
        return value
    host, port = _split_endpoint(value, "127.0.0.1:25")
    if not _is_ip(host):
        raise ValueError(f'must be an IP address and a port, not {shown(value)}; "0.0.0.0" and "[::]" mean every address')
    return Endpoint(ipaddress.ip_address(host).compressed, port)


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A UNIX socket to listen at, by its path."""

    path: Path

    def __str__(self) -> str:
        return f"{_UNIX}{self.path}"


def lmtp_endpoint(value: object, folder: Path = Path()) -> Endpoint | SocketFile:
    """
    Parse "ADDRESS:PORT" or "unix:PATH"; a relative path starts at the folder.

    Raises:  ValueError.
    """
    if isinstance(value, SocketFile):
        return value
    if not isinstance(value, str) or not value.startswith(_UNIX):
        endpoint = listen_endpoint(value)
        if endpoint.port == 25:
            raise ValueError("LMTP may not be spoken at port 25 (RFC 2033 §5), where others expect SMTP; 24 is its own")
        return endpoint
    name = value.removeprefix(_UNIX)
    if not name or "\0" in name:
        raise ValueError(f'must be text of the form "unix:/run/mailstack/lmtp", not {shown(value)}')
    path = folder / name
    if len(os.fsencode(path)) > _SOCKET_PATH_OCTETS:
        raise ValueError(
            f"{shown(str(path))} is longer than the {_SOCKET_PATH_OCTETS} octets that the path of a socket may have"
        )
    return SocketFile(path)


def _lmtp_endpoint(value: object, info: ValidationInfo) -> Endpoint | SocketFile:
    return lmtp_endpoint(value, Path(info.context["folder"]) if info.context else Path())


def _network(value: object) -> Network:
    if isinstance(value, Network):
        return value
    if not isinstance(value, str):
        raise ValueError(f'must be text of the form "192.0.2.1" or "192.0.2.0/24", not {shown(value)}')
    try:
        return ipaddress.ip_network(value)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"must be an IP address or a network, such as 192.0.2.0/24, not {shown(value)}") from None
    raise ValueError(f"{shown(value)} is an address within a network; did you mean {meant}?")


def _network_or_unix(value: object) -> Network | Unix:
    return "unix" if value == "unix" else _network(value)


def _group_name(text: str) -> str:
    if not _GROUP.fullmatch(text):
        raise ValueError(f"{shown(text)} is not the name of a group")
    return text


def _remote_endpoint(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    host, port = _split_endpoint(value, "smtp.example.net:587")
    if port == 0:
        raise ValueError("port 0 cannot be connected to")
    return Endpoint(host if _is_ip(host) else _domain_name(host), port)


def _nameserver(value: object) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    if isinstance(value, str) and _is_ip(value):
        return Endpoint(value, 53)
    host, port = _split_endpoint(value, "127.0.0.1:53")
    if not _is_ip(host) or port == 0:
        raise ValueError(f"must be an IP address, with or without a port, not {shown(value)}")
    return Endpoint(host, port)


def _domain_name(text: str) -> str:
    try:
        name = parse_domain(text)
    except AddressError as error:
        raise ValueError(f"{shown(text)} is not a domain name: {error}") from None
    if not all(_HOST_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{shown(text)} is not a domain name of letters, digits, hyphens and dots")
    return name


def _domain_pattern(text: str) -> str:
    if text == "*":
        return text
    return "." + _domain_name(text[1:]) if text.startswith(".") else _host_name(text)


def _account_name(text: str) -> str:
    try:
        return str(parse_address(text)).lower()
    except AddressError as error:
        raise ValueError(f"{shown(text)} is not the name of an account, such as alice@example.org: {error}") from None


def _introspection_url(text: str) -> str:
    try:
        url = urlsplit(text)
        port, host = url.port, url.hostname or ""
    except ValueError:
        raise ValueError(f"{shown(text)} is not a URL") from None
    if not _URL_LETTERS.fullmatch(text) or url.scheme not in ("https", "http") or not host or port == 0:
        raise ValueError(f'must be text of the form "https://login.example.org/oauth2/introspect", not {shown(text)}')
    if url.username is not None or url.password is not None or url.fragment:
        raise ValueError("must name neither a user nor a place in the answer; client_id and client_secret_file say who we are")
    if url.scheme == "http" and not (host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback)):
        raise ValueError(f"tokens and a secret are sent there, so {shown(host)} needs https; http is for this machine only")
    return text


def _claim(text: str) -> str:
    if not _CLAIM.fullmatch(text):
        raise ValueError(f"{shown(text)} is not the name of a claim, such as username, sub or email")
    return text


def _scopes(text: str) -> str:
    if text and not _SCOPES.fullmatch(text):
        raise ValueError(f"{shown(text)} is not one scope, or several with a space between two of them (RFC 6749 §3.3)")
    return text


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        path = value
    elif isinstance(value, str) and value and "\0" not in value:
        path = Path(value)
    else:
        raise ValueError(f"must be a path in quotes, not {shown(value)}")
    return Path(info.context["folder"]) / path if info.context else path


def _secret_path(value: object, info: ValidationInfo) -> Path:
    path = _path(value, info)
    if info.context:
        _check_secret(path)
    return path


def _check_secret(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"{path} cannot be used: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is not a file")
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise ValueError(f"{path} holds a secret and may be read or written by everybody; run: chmod o-rwx {path}")


def _pattern(text: str) -> str:
    try:
        return parse_pattern(text)
    except TransportError as error:
        raise ValueError(f"{shown(text)} {error}") from None


def _transport(value: object) -> Transport:
    if isinstance(value, Transport):
        return value
    if not isinstance(value, str):
        raise ValueError(f'must be text such as "smtp:[10.0.0.5]:25", not {shown(value)}')
    try:
        return parse_transport(value)
    except TransportError as error:
        raise ValueError(f"{shown(value)} {error}") from None


def _host_name(text: str) -> str:
    return ipaddress.ip_address(text).compressed if _is_ip(text) else _domain_name(text)


def _source_addresses(value: object) -> tuple[str, ...]:
    texts = value if isinstance(value, list | tuple) else [value]
    addresses = [ipaddress.ip_address(each) for each in texts if isinstance(each, str) and _is_ip(each) and "%" not in each]
    if len(addresses) != len(texts):
        raise ValueError(f'must be IP addresses in a list, such as ["192.0.2.25"], not {shown(value)}')
    if len({each.version for each in addresses}) != len(addresses):
        raise ValueError("must be one IPv4 and one IPv6 address at most")
    if any(each.is_unspecified or each.is_multicast for each in addresses):
        raise ValueError("must be addresses that this machine has")
    return tuple(each.compressed for each in addresses)


def _workers(value: object) -> int | str:
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_WORKERS:
        return value
    raise ValueError(f'must be a whole number from 1 to {MOST_WORKERS}, or "auto", not {shown(value)}')


_RATE_UNITS: Final = {"second": 1, "minute": 60, "hour": 3600}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many messages in so many seconds."""

    messages: int
    seconds: int

    def __str__(self) -> str:
        unit = next(name for name, seconds in _RATE_UNITS.items() if seconds == self.seconds)
        return f"{self.messages}/{unit}"


def _rate(value: object) -> Rate:
    if isinstance(value, Rate):
        return value
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'must be text of the form "10/second", "100/minute" or "1000/hour", not {shown(value)}')
    return Rate(int(found[1]), _RATE_UNITS[found[2]])


def _rated(text: str) -> str:
    if text == "*":
        return text
    try:
        return parse_domain(text)
    except AddressError as error:
        raise ValueError(f'{shown(text)} is neither a domain nor "*": {error}') from None


_as_text = PlainSerializer(str)
Listeners = Annotated[tuple[Annotated[Endpoint, PlainValidator(listen_endpoint), _as_text], ...], Strict(False)]
LmtpListeners = Annotated[tuple[Annotated[Endpoint | SocketFile, PlainValidator(_lmtp_endpoint), _as_text], ...], Strict(False)]
Networks = Annotated[tuple[Annotated[Network, PlainValidator(_network), _as_text], ...], Strict(False)]
NetworksOrUnix = Annotated[tuple[Annotated[Network | Unix, PlainValidator(_network_or_unix), _as_text], ...], Strict(False)]
GroupName = Annotated[str, AfterValidator(_group_name)]
Names = Annotated[tuple[str, ...], Strict(False)]
Nameservers = Annotated[tuple[Annotated[Endpoint, PlainValidator(_nameserver), _as_text], ...], Strict(False)]
Remote = Annotated[Endpoint, PlainValidator(_remote_endpoint), _as_text]
TLSLevel = Literal["none", "may", "encrypt", "verify", "dane"]
TLSLevels = dict[Annotated[str, AfterValidator(_domain_pattern)], TLSLevel]
Transports = dict[Annotated[str, AfterValidator(_pattern)], Annotated[Transport, PlainValidator(_transport), _as_text]]
HostName = Annotated[str, AfterValidator(_host_name)]
SourceAddresses = Annotated[tuple[str, ...], PlainValidator(_source_addresses)]
Rates = dict[Annotated[str, AfterValidator(_rated)], Annotated[Rate, PlainValidator(_rate), _as_text]]
Workers = Annotated[int | Literal["auto"], PlainValidator(_workers)]
FolderPath = Annotated[Path, PlainValidator(_path)]
SecretPath = Annotated[Path, PlainValidator(_secret_path)]
DomainName = Annotated[str, AfterValidator(_domain_name)]
DomainNames = Annotated[tuple[DomainName, ...], Strict(False)]
AccountName = Annotated[str, AfterValidator(_account_name)]
IntrospectionUrl = Annotated[str, AfterValidator(_introspection_url)]
Claim = Annotated[str, AfterValidator(_claim)]
Scopes = Annotated[str, AfterValidator(_scopes)]
AtLeastOne = Annotated[int, Field(ge=1)]


def read_secret(path: Path) -> str:
    """
    Read the first line of a file that holds a secret.

    Raises:  ValueError: it cannot be read, is empty, or may be read by everybody; the secret is not in the message.
    """
    _check_secret(path)
    try:
        with path.open("rb") as file:
            line = file.readline(_SECRET_OCTETS).decode().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    if not line:
        raise ValueError(f"{path} has an empty first line")
    return line


def read_secrets(path: Path) -> tuple[str, ...]:
    """
    Read a file with a secret on each line; empty lines are passed over.

    Raises:  ValueError: as of `read_secret`, or one is too short.
    """
    _check_secret(path)
    try:
        with path.open("rb") as file:
            lines = file.read(_SECRET_OCTETS).decode().split("\n")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8") from None
    found = tuple(secret for line in lines if (secret := line.rstrip("\r")))
    if not found:
        raise ValueError(f"{path} holds no secret")
    if min(map(len, found)) < SECRET_CHARACTERS:
        raise ValueError(f"{path} holds a secret of less than {SECRET_CHARACTERS} characters, which could be guessed")
    return found


def shown(value: object) -> str:
    """Write a value for a message: short, printable, on one line."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    text = "".join(c if c.isprintable() else "?" for c in value[:80])
    return f'"{text}"'
