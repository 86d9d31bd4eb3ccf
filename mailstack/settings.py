"""
Settings: the configuration, parsed once into frozen values.

`load` reads one TOML file and either returns `Settings` or raises `SettingsError` with everything that is wrong, each with
file, line and key. Nothing is guessed: an unknown key, a wrong type or a secret that others may read refuses the start.
Relative paths start at the folder of the file. A password never stands in the file; a key that ends in `_file` names the file
that holds it.

The docstring below a field is what the annotated sample, `etc/mailstack.toml`, says about its key.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from mailstack.mail.envelope import Service
from mailstack.settings_kinds import (
    MOST_WORKERS,
    AccountName,
    AtLeastOne,
    DomainName,
    Endpoint,
    FolderPath,
    GroupName,
    Listeners,
    LmtpListeners,
    Names,
    Nameservers,
    Network,
    Networks,
    Remote,
    SecretPath,
    SocketFile,
    Workers,
    listen_endpoint,
    lmtp_endpoint,
    read_secret,
)
from mailstack.settings_problems import (
    Place,
    Problem,
    SettingsError,
    line_of_syntax_error,
    lines_of_keys,
    locate,
    reason,
    shown_key,
)

__all__ = [
    "Endpoint",
    "Network",
    "Problem",
    "Settings",
    "SettingsError",
    "SocketFile",
    "Table",
    "fields",
    "load",
    "problem_at",
    "read_secret",
]

_SERVICES: Final = (
    Service.SMTP,
    Service.SUBMISSION,
    Service.SUBMISSIONS,
    Service.POP3,
    Service.POP3S,
    Service.LMTP,
)
_TLS_SERVICES: Final = (Service.SUBMISSION, Service.SUBMISSIONS, Service.POP3S)


class Table(BaseModel):
    """What all tables have in common: frozen, no unknown keys, no conversions (`"25"` is not 25)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, validate_default=True)


class Listen(Table):
    """Where each service listens: "ADDRESS:PORT", IPv6 as "[::1]:25"; nothing listens until it is told to."""

    smtp: Listeners = ()
    """Mail from other servers, port 25 (RFC 5321)."""
    submission: Listeners = ()
    """Mail from our users with STARTTLS, port 587 (RFC 6409). Needs [tls]."""
    submissions: Listeners = ()
    """Mail from our users with TLS from the start, port 465 (RFC 8314). Needs [tls]."""
    pop3: Listeners = ()
    """Retrieval with STLS, port 110 (RFC 1939, RFC 2595). Without [tls] nobody can log in, unless pop3.require_tls is false."""
    pop3s: Listeners = ()
    """Retrieval with TLS from the start, port 995 (RFC 8314). Needs [tls]."""
    lmtp: LmtpListeners = ()
    """Local delivery for another mail server (RFC 2033), without authentication: "ADDRESS:PORT", or "unix:PATH"."""
    lmtp_group: GroupName | None = Field(default=None, examples=["postfix"])
    """The group whose members may use the UNIX sockets of lmtp; without one only the user who makes them, and root."""

    def each(self) -> Iterator[tuple[Service, Endpoint | SocketFile]]:
        """Yield every service with each of its endpoints."""
        for service in _SERVICES:
            for endpoint in getattr(self, service.value):
                yield service, endpoint


class Receive(Table):
    """Who may hand in mail, and who is believed when he says for whom."""

    lmtp_from: Networks = ()
    """Addresses and networks, "192.0.2.0/24", that may use lmtp besides this machine; a listener beyond loopback needs them."""
    xclient_from: Networks = ()
    """Proxies and filters that may say by XCLIENT who their client is, by XFORWARD whose mail they bring. All is believed."""


class Proxy(Table):
    """Load balancers: connections from these addresses and networks, "192.0.2.0/24", begin with a PROXY header, v1 or v2."""

    smtp_from: Networks = ()
    """Those in front of smtp; whom the header names is the peer for limits, policies and the log. Others need none."""
    submission_from: Networks = ()
    """Those in front of submission."""
    submissions_from: Networks = ()
    """Those in front of submissions; the header comes before TLS."""
    pop3_from: Networks = ()
    """Those in front of pop3."""
    pop3s_from: Networks = ()
    """Those in front of pop3s; the header comes before TLS."""
    lmtp_from: Networks = ()
    """Those in front of lmtp; not for UNIX sockets."""

    def of(self, service: Service) -> Networks:
        """Return the proxies of a service."""
        networks: Networks = getattr(self, f"{service.value}_from")
        return networks


class Tls(Table):
    """The certificate that all services show; both keys or none."""

    certificate: FolderPath | None = Field(default=None, examples=["fullchain.pem"])
    """Path of the certificate with its chain, PEM."""
    key: SecretPath | None = Field(default=None, examples=["privkey.pem"])
    """Path of its private key, PEM, without a passphrase. Others must not be able to read it."""
    client_authority: FolderPath | None = Field(default=None, examples=["users-ca.pem"])
    """Path of the authorities, PEM, whose certificates let users submit without a password: the address stands in them."""


class Limits(Table):
    """What one peer may ask for."""

    message_octets: int = Field(default=52_428_800, ge=65_536)
    """The largest message, in octets; RFC 5321 §4.5.3.1.7 wants 65536 at least."""
    recipients: int = Field(default=1_000, ge=100)
    """The most recipients of one message; RFC 5321 §4.5.3.1.8 wants 100 at least."""
    header_octets: int = Field(default=1_048_576, ge=65_536)
    """The largest header section of a message, in octets; the largest message bounds it, too."""
    header_fields: int = Field(default=2_000, ge=200)
    """The most fields of it. A line of a message may have any length, also where RFC 5322 §2.1.1 allows 998."""
    connections: AtLeastOne = 1_000
    """The most connections at a time to one kind of service (pop3 and pop3s are one), at all its listeners together."""
    connections_per_peer: AtLeastOne = 50
    """The most of them from one IPv4 address or IPv6 /64."""
    connections_per_network: AtLeastOne = 200
    """The most of them from one network, IPv4 /24 or IPv6 /48; this machine itself counts as no network."""
    connections_per_minute: AtLeastOne = 1_200
    """The most that one IPv4 address or IPv6 /64 may begin in a minute; this machine itself, and LMTP, may begin more."""
    greeting_pause_seconds: int = Field(default=0, ge=0, le=60)
    """How long another server waits for our greeting; who speaks meanwhile is refused. 0: who errs so is rare by now."""
    errors: AtLeastOne = 10
    """After so many refused commands the connection is closed."""
    error_delay_seconds: int = Field(default=1, ge=0, le=30)
    """After 5 refused commands each further reply waits so long, until a message is accepted."""
    failed_logins: AtLeastOne = 10
    """After so many wrong passwords for one account from one network (IPv4 /24, IPv6 /64), by any service, all logins fail."""
    failed_logins_per_network: AtLeastOne = 50
    """After so many from one network for any account all its logins fail, but to accounts it logged in to within 30 days."""
    failed_logins_seconds: AtLeastOne = 900
    """The time within which they count, and after which they are forgotten."""
    command_timeout_seconds: AtLeastOne = 300
    """How long to wait for the next command; RFC 5321 §4.5.3.2.7 wants 300."""
    data_timeout_seconds: AtLeastOne = 600
    """How long to wait for more of a message; RFC 5321 §4.5.3.2.5 lets a client take 180."""
    bare_newline: Literal["reject", "normalise"] = "reject"
    """A line end that is not CRLF: "reject" the message (RFC 5321 §2.3.8), or "normalise" it, as always in a submission."""


class Relay(Table):
    """Mail to other domains."""

    port: int = Field(default=25, ge=1, le=65_535)
    """The port at which other servers receive; anything but 25 is for tests."""
    smarthost: Remote | None = Field(default=None, examples=["smtp.example.net:587"])
    """Send everything through this server, "HOST:PORT", instead of to the MX of each domain."""
    smarthost_username: str | None = Field(default=None, examples=["us@example.net"])
    """The name to log in with at the smarthost. Needs tls = "encrypt" or "verify"."""
    smarthost_password_file: SecretPath | None = Field(default=None, examples=["smarthost.password"])
    """Path of the file whose first line is the password for it. Others must not be able to read it."""
    tls: Literal["may", "encrypt", "verify"] = "may"
    """"may": TLS where it is offered and works; "encrypt": never without; "verify": and the certificate must be right."""
    allow_private: bool = False
    """Connect to loopback and private addresses that the DNS names for another domain; for tests and closed networks."""
    nameservers: Nameservers = ()
    """IP addresses of the DNS servers to ask, "ADDRESS" or "ADDRESS:PORT"; empty: those of the system."""
    connect_timeout_seconds: AtLeastOne = 30
    """How long to wait for a connection to one address."""
    attempts_at_once: AtLeastOne = 50
    """The most attempts at a time, of all destinations together; each worker has its part, rounded up."""
    per_destination: AtLeastOne = 5
    """The most connections at a time to one destination; each worker has its part, rounded up."""


class Queue(Table):
    """What happens to mail that cannot be delivered at once."""

    retry_first_seconds: AtLeastOne = 300
    """How long to wait after the first failed attempt; each later wait is longer."""
    retry_most_seconds: AtLeastOne = 14_400
    """The longest wait between two attempts."""
    warn_seconds: int = Field(default=14_400, ge=0)
    """When the sender is told, once, that a message still waits; 0: never, unless the sender asks for it (DELIVERBY)."""
    expire_seconds: AtLeastOne = 432_000
    """When to give up and tell the sender; RFC 5321 §4.5.4.1 wants 4 to 5 days (432000 is 5)."""
    free_octets_minimum: int = Field(default=100_000_000, ge=0)
    """Below so much free space new mail is refused for the time being (452)."""


class Control(Table):
    """The control socket, by which `mailstack queue` asks the running server: the file "control" in the folder."""

    group: GroupName | None = Field(default=None, examples=["mailadmin"])
    """The group whose members may use it, if the folder lets them pass; else only the user of the server may, and root."""


class Delivery(Table):
    """Local delivery."""

    subaddress_delimiter: Literal["+", "-", "_", "=", ""] = "+"
    """Mail for `alice+anything` goes to `alice` (RFC 5233); empty: no such addresses."""


class Login(Table):
    """How users log in, to submit and to retrieve."""

    scram: bool = True
    """Offer SCRAM-SHA-256 beside PLAIN; an account whose password was set before there was SCRAM needs it set again."""


class Pop3(Table):
    """Retrieval."""

    idle_timeout_seconds: int = Field(default=600, ge=600)
    """How long a session may be idle; RFC 1939 §3 wants 600 at least."""
    require_tls: bool = True
    """Refuse passwords without TLS (RFC 8314); false is for tests, closed networks, or behind what ends TLS."""


class PolicyTable(Table):
    """Decisions about mail that comes in, by plugins."""

    use: Names = ()
    """Names of the policies to ask, in this order; "relaying" and "sender" are always asked."""
    check_header_from: bool = True
    """Refuse a submission in which neither From nor Sender belongs to the account that sends it; the policy "author" does."""
    options: dict[str, dict[str, Any]] = {}
    """A table [policy.options.NAME] holds the options of the policy NAME."""


class Settings(Table):
    """The whole configuration."""

    hostname: DomainName = Field(examples=["mail.example.org"])
    """Our own name, as in the greeting and in Received fields: a domain name that leads to this machine. Required."""
    folder: FolderPath = Field(default=Path())
    """Path of the folder that holds spool/, mail/ and directory.db; relative paths start at the folder of this file."""
    postmaster: AccountName | None = Field(default=None, examples=["alice@example.org"])
    """The account that receives mail for <postmaster>, which RFC 5321 §4.5.1 wants to work."""
    drain_seconds: int = Field(default=30, ge=0)
    """How long running transactions may go on when we are told to stop."""
    workers: Workers = 1
    """How many processes serve, each with a spool of its own: 1 to 32, or "auto" for one on each processor core."""
    listen: Listen = Field(default_factory=Listen)
    tls: Tls = Field(default_factory=Tls)
    receive: Receive = Field(default_factory=Receive)
    proxy: Proxy = Field(default_factory=Proxy)
    limits: Limits = Field(default_factory=Limits)
    relay: Relay = Field(default_factory=Relay)
    queue: Queue = Field(default_factory=Queue)
    control: Control = Field(default_factory=Control)
    delivery: Delivery = Field(default_factory=Delivery)
    login: Login = Field(default_factory=Login)
    pop3: Pop3 = Field(default_factory=Pop3)
    policy: PolicyTable = Field(default_factory=PolicyTable)

    @property
    def worker_count(self) -> int:
        """How many processes serve, on the cores that this one may use."""
        return self.workers if self.workers != "auto" else min(len(os.sched_getaffinity(0)), MOST_WORKERS)

    @property
    def spool_folder(self) -> Path:
        """Where accepted mail waits."""
        return self.folder / "spool"

    @property
    def mail_folder(self) -> Path:
        """Where the maildirs are."""
        return self.folder / "mail"

    @property
    def control_file(self) -> Path:
        """Where the running server can be asked."""
        return self.folder / "control"

    @property
    def directory_file(self) -> Path:
        """The file that says who exists."""
        return self.folder / "directory.db"


def fields(table: type[Table] = Settings, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield every key with its path and its field, the tables themselves too."""
    for name, field in table.model_fields.items():
        yield (*above, name), field
        if isinstance(field.annotation, type) and issubclass(field.annotation, Table):
            yield from fields(field.annotation, (*above, name))


def load(path: Path) -> Settings:
    """
    Read a configuration.

    Raises:  SettingsError: with all that is wrong.
    """
    text, document = _read(path)
    wrong: list[tuple[Place, str]] = []
    settings = None
    try:
        settings = Settings.model_validate(document, context={"folder": path.absolute().parent})
    except ValidationError as error:
        known = [key for key, _ in fields()]
        wrong += [(each["loc"], reason(each, known)) for each in error.errors(include_url=False)]
    wrong += _contradictions(document)
    if wrong or settings is None:
        lines = lines_of_keys(text)
        problems = [Problem(str(path), locate(lines, place), shown_key(place), why) for place, why in wrong]
        raise SettingsError(tuple(sorted(problems, key=lambda problem: problem.line)))
    return settings


def problem_at(path: Path, key: str, why: str) -> Problem:
    """Make a problem with a key, `table.name`, of a file that `load` has found valid."""
    text, _ = _read(path)
    return Problem(str(path), locate(lines_of_keys(text), key.split(".")), key, why)


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise SettingsError((Problem(str(path), 0, "", f"cannot be read: {error.strerror}"),)) from None
    try:
        text = octets.decode()
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise SettingsError((Problem(str(path), line, "", "is not UTF-8 text"),)) from None
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        why = re.sub(r" \(at [^()]*\)$", "", str(error))
        line = line_of_syntax_error(str(error), text)
        raise SettingsError((Problem(str(path), line, "", f"is not TOML: {why}"),)) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, hundreds of brackets
        raise SettingsError((Problem(str(path), 0, "", "holds a value that is too long or too deep"),)) from None


def _contradictions(document: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    # On the raw document, so that these are found in the same run as errors inside of one key.
    def table(name: str) -> Mapping[str, Any]:
        found = document.get(name)
        return found if isinstance(found, dict) else {}

    tls, listen, relay, queue = table("tls"), table("listen"), table("relay"), table("queue")
    for one, other in (("certificate", "key"), ("key", "certificate")):
        if one in tls and other not in tls:
            yield ("tls", one), f"needs tls.{other} beside it: both or none"
    if "client_authority" in tls and "certificate" not in tls:
        yield ("tls", "client_authority"), "needs tls.certificate and tls.key beside it"
    if not tls:
        for service in _TLS_SERVICES:
            if listen.get(service.value):
                yield (
                    ("listen", service.value),
                    "needs TLS: set tls.certificate and tls.key",
                )
    yield from _taken_twice(listen)
    yield from _open_lmtp(listen, table("receive"))
    yield from _smarthost_login(relay)
    first = queue.get("retry_first_seconds", Queue().retry_first_seconds)
    most = queue.get("retry_most_seconds", Queue().retry_most_seconds)
    if isinstance(first, int) and isinstance(most, int) and first > most:
        key = "retry_first_seconds" if "retry_first_seconds" in queue else "retry_most_seconds"
        yield ("queue", key), f"the first wait ({first}) is longer than the longest ({most})"


def _taken_twice(listen: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    seen: Counter[Endpoint | SocketFile] = Counter()
    for service, endpoints in listen.items():
        parse = lmtp_endpoint if service == Service.LMTP.value else listen_endpoint
        for number, text in enumerate(endpoints if isinstance(endpoints, list) else ()):
            try:
                endpoint = parse(text)
            except ValueError:
                continue
            if (isinstance(endpoint, SocketFile) or endpoint.port) and seen[endpoint]:
                yield ("listen", service, number), f"{endpoint} is already taken by a listener above"
            seen[endpoint] += 1


def _open_lmtp(listen: Mapping[str, Any], receive: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    endpoints = listen.get("lmtp")
    if receive.get("lmtp_from") or not isinstance(endpoints, list):
        return
    for number, text in enumerate(endpoints):
        try:
            endpoint = lmtp_endpoint(text)
        except ValueError:
            continue
        if isinstance(endpoint, Endpoint) and not ip_address(endpoint.host).is_loopback:
            yield ("listen", "lmtp", number), f"{endpoint} is not on loopback: name in receive.lmtp_from who may use it"


def _smarthost_login(relay: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for one, other in (
        ("smarthost_username", "smarthost_password_file"),
        ("smarthost_password_file", "smarthost_username"),
    ):
        if one in relay and other not in relay:
            yield ("relay", one), f"needs relay.{other} beside it: both or none"
        elif one in relay and "smarthost" not in relay:
            yield ("relay", one), "needs relay.smarthost: there is nobody to log in at"
    if "smarthost_username" in relay and relay.get("tls", "may") == "may":
        yield (
            ("relay", "tls" if "tls" in relay else "smarthost_username"),
            'a password is to be sent, so relay.tls must be "verify" or "encrypt"',
        )
