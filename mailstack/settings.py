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
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from mailstack.mail.address import AddressError, parse_domain
from mailstack.mail.envelope import Service
from mailstack.route.transport import ANY, TransportError, TransportMap, parse_pattern
from mailstack.settings_kinds import (
    MOST_WORKERS,
    AccountName,
    AtLeastOne,
    Claim,
    DomainName,
    DomainNames,
    Endpoint,
    FolderPath,
    GroupName,
    HostName,
    IntrospectionUrl,
    Listeners,
    LmtpListeners,
    Names,
    Nameservers,
    Network,
    Networks,
    NetworksOrUnix,
    Rates,
    Remote,
    Scopes,
    SecretPath,
    SocketFile,
    SourceAddresses,
    TLSLevel,
    TLSLevels,
    Transports,
    Unix,
    Workers,
    listen_endpoint,
    lmtp_endpoint,
    read_secret,
    read_secrets,
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
    "Unix",
    "control_file_in",
    "fields",
    "load",
    "load_folder",
    "problem_at",
    "read_secret",
    "read_secrets",
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
    """The group whose members may use the UNIX sockets of lmtp, the server's user being one; else only he may, and root."""

    def each(self) -> Iterator[tuple[Service, Endpoint | SocketFile]]:
        """Yield every service with each of its endpoints."""
        for service in _SERVICES:
            for endpoint in getattr(self, service.value):
                yield service, endpoint


class Receive(Table):
    """Who may hand in mail, and who is believed when he says for whom."""

    lmtp_from: Networks = ()
    """Addresses and networks, "192.0.2.0/24", that may use lmtp besides this machine; a listener beyond loopback needs them."""
    binarymime: bool = True
    """Offer BINARYMIME (RFC 3030); binary parts are kept in base64, which breaks a DKIM signature made over them before."""
    xclient_from: NetworksOrUnix = ()
    """Who may say by XCLIENT for whom he speaks, by XFORWARD whose mail it is, and is believed; "unix": by UNIX sockets."""


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
    """Path of the authorities, PEM, whose certificates let users log in without a password: the address stands in them."""
    client_revocations: FolderPath | None = Field(default=None, examples=["users-ca.crl"])
    """Path of what they have revoked, CRLs in PEM. Each of them needs one that has not expired, or its users stay out."""


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
    command_line_octets: int = Field(default=2_048, ge=2_048, le=65_536)
    """The longest command line, in octets; RFC 5321 §4.5.3.1.4 wants 512, and the extensions add to it."""
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
    errors_before_delay: int = Field(default=5, ge=0)
    """After so many refused commands each further reply is late, until a message is accepted."""
    error_delay_seconds: int = Field(default=1, ge=0, le=30)
    """By so much."""
    idle_commands: AtLeastOne = 100
    """After so many commands that bring no message further (NOOP, RSET, VRFY, EHLO, ...) the connection is closed."""
    failed_logins_per_session: AtLeastOne = 3
    """After so many logins that failed the connection is closed; each is answered later than the one before."""
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
    data_octets_per_second: AtLeastOne = 100
    """How fast a message must come, on an average over data_timeout_seconds."""
    handshake_timeout_seconds: AtLeastOne = 30
    """How long a TLS handshake may take."""
    session_timeout_seconds: AtLeastOne = 14_400
    """How long a connection may last; twice as long where a message is under way."""
    bare_newline: Literal["reject", "normalise"] = "reject"
    """A line end that is not CRLF: "reject" the message (RFC 5321 §2.3.8), or "normalise" it, as always in a submission."""


class HostLogin(Table):
    """How to log in at a host that is named."""

    username: str
    """The name."""
    password_file: SecretPath
    """Path of the file whose first line is the password. Others must not be able to read it."""
    tls: Literal["encrypt", "verify"] = "verify"
    """As relay.tls, for this host; never without, since a password is sent."""


class Relay(Table):
    """Mail to other domains."""

    port: int = Field(default=25, ge=1, le=65_535)
    """The port at which other servers receive; anything but 25 is for tests."""
    smarthost: Remote | None = Field(default=None, examples=["smtp.example.net:587"])
    """Send everything through this server, "HOST:PORT", instead of to the MX of each domain."""
    smarthost_username: str | None = Field(default=None, examples=["us@example.net"])
    """The name to log in with at the smarthost; then tls = "dane" means "verify", and "none" and "may" are refused."""
    smarthost_password_file: SecretPath | None = Field(default=None, examples=["smarthost.password"])
    """Path of the file whose first line is the password for it. Others must not be able to read it."""
    tls: TLSLevel = "dane"
    """"none", "may" (if offered), "encrypt", "verify"; or "dane": what its domain publishes (DANE, MTA-STS) or "may"."""
    tls_patience_seconds: int = Field(default=7_200, ge=0)
    """How long mail waits for a host that had TLS within 30 days and has none now, before it goes in clear; 0: not at all."""
    client_certificate: FolderPath | None = Field(default=None, examples=["relay.pem"])
    """Path of the certificate, with its chain, PEM, that hosts get to see which ask for one; a smarthost may know us by it."""
    client_key: SecretPath | None = Field(default=None, examples=["relay.key"])
    """Path of its private key, PEM, without a passphrase. Others must not be able to read it."""
    allow_private: bool = False
    """Connect to loopback and private addresses that the DNS names for another domain; for tests and closed networks."""
    nameservers: Nameservers = ()
    """DNS servers, "IP" or "IP:PORT"; empty: the system's. DANE needs one here that validates; beside it no other is asked."""
    chunking: bool = True
    """Send contents by BDAT to hosts that offer CHUNKING, so that nothing in them can be taken for their end; else by DATA."""
    connect_timeout_seconds: AtLeastOne = 30
    """How long to wait for a connection to one address; after 250 ms the host's next address is tried beside it."""
    max_hosts: int = Field(default=5, ge=1, le=50)
    """The most addresses, of all hosts of a domain together, that one attempt tries; later ones up to four times as many."""
    local_addresses: SourceAddresses = ()
    """Addresses of this machine to connect from, one IPv4 and one IPv6 at most; empty: the system chooses."""
    all_addresses_of: DomainNames = ()
    """Domains of ours, elsewhere by [transport], of which every address is taken, and not only those in the directory."""
    attempts_at_once: AtLeastOne = 500
    """The most attempts at a time, of all destinations together; each worker has its part, rounded up."""
    per_destination: AtLeastOne = 20
    """The most attempts at a time at one destination, when it takes them well; each worker has its part, rounded up."""
    initial_per_destination: AtLeastOne = 5
    """With how many one begins of which nothing is known; it gets more as it answers, and fewer as it fails."""
    tls_levels: TLSLevels = Field(default={}, examples=[{"example.com": "verify", ".example.com": "encrypt"}])
    """What tls says, for some domains, and hosts that you name, instead; ".NAME" is all below NAME, "*" is all others."""
    rates: Rates = Field(default={}, examples=[{"example.net": "100/minute", "*": "10/second"}])
    """The most messages to a domain, per second, minute or hour; "*": to each of the others."""
    source: dict[DomainName, SourceAddresses] = Field(default={}, examples=[{"example.org": ["192.0.2.25", "2001:db8::25"]}])
    """From where mail of a sender's domain goes, instead of local_addresses; of a family that has none here, from those."""
    logins: dict[HostName, HostLogin] = Field(
        default={},
        examples=[
            {"smtp.example.net": {"username": "us@example.net", "password_file": "smtp.example.net.password", "tls": "verify"}}
        ],
    )
    """How to log in at the hosts that [transport] or smarthost names; never without TLS, "encrypt" or "verify"."""


class TlsReports(Table):
    """Daily reports to other domains about TLS with their hosts (RFC 8460), to those that ask for them in the DNS."""

    send: bool = True
    """Count, and send reports; needs a contact."""
    contact: AccountName | None = Field(default=None, examples=["postmaster@example.org"])
    """The address that reports come from, and whom to ask about them. Without it, the account of the key postmaster."""
    organisation: str | None = Field(default=None, examples=["Example Ltd"])
    """Who reports. Without it, the hostname."""


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
    double_bounces: Literal["postmaster", "discard"] = "postmaster"
    """What fails and no sender can be told of: the "postmaster" is, at most 20 times an hour; "discard": only the log is."""
    free_octets_minimum: int = Field(default=100_000_000, ge=0)
    """Below so much free space new mail is refused for the time being (452)."""
    free_inodes_minimum: int = Field(default=1_000, ge=0)
    """The same for free inodes, where the file system has a number of them."""


class Srs(Table):
    """Forwarding abroad: the sender's address is rewritten (SRS), else SPF lets many hosts refuse it. Both keys or none."""

    domain: DomainName | None = Field(default=None, examples=["example.org"])
    """A domain whose mail comes to us: where mail that an alias leads elsewhere is sent from, and bounces of it return to."""
    secret_file: SecretPath | None = Field(default=None, examples=["srs.secret"])
    """Path of a file of secrets, each on a line and of 16 characters or more: the first signs, all verify."""


class Control(Table):
    """The control socket, by which `mailstack queue` asks the running server: the file "control" in the folder."""

    group: GroupName | None = Field(default=None, examples=["mailadmin"])
    """The group whose members may use it, the server's user being one, if the folder lets them pass; else only he, and root."""


class Delivery(Table):
    """Local delivery."""

    subaddress_delimiter: Literal["+", "-", "_", "=", ""] = "+"
    """Mail for `alice+anything` goes to `alice` (RFC 5233); empty: no such addresses."""


class Login(Table):
    """How users log in, to submit and to retrieve."""

    scram: bool = True
    """Offer SCRAM-SHA-256 beside PLAIN; an account whose password was set before there was SCRAM needs it set again."""


class OAuth(Table):
    """Tokens of an authorization server with which users log in, too, within TLS (OAUTHBEARER, XOAUTH2)."""

    introspection_url: IntrospectionUrl | None = Field(default=None, examples=["https://login.example.org/oauth2/introspect"])
    """Where that server says whose a token is (RFC 7662): https, or http to this machine. Without it no token is taken."""
    client_id: str | None = Field(default=None, min_length=1, max_length=255, examples=["mailstack"])
    """Who we are there."""
    client_secret_file: SecretPath | None = Field(default=None, examples=["oauth.secret"])
    """Path of the file whose first line proves it. Others must not be able to read it."""
    account_claim: Claim = "username"
    """What in its answer names the account, an address: "username", "sub", or "email", unless that is not verified there."""
    scope: Scopes = ""
    """What a token must allow, several with spaces between; empty: anything, so any token of a user opens the mailbox."""
    audience: str | None = Field(default=None, min_length=1, max_length=1000, examples=["mail.example.org"])
    """For whom a token must be made, its `aud`; not set: for anybody, so one that another service was shown is good here."""
    timeout_seconds: int = Field(default=5, ge=1, le=60)
    """How long to wait for an answer; without one a login fails for the time being."""


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
    tls_reports: TlsReports = Field(default_factory=TlsReports)
    transport: Transports = Field(
        default={},
        examples=[
            {
                "example.net": "smtp:[10.0.0.5]:25",
                ".example.net": "smtp:example.net",
                "shop@example.org": "lmtp:unix:/run/shop/lmtp",
                "old@example.org": "error: 5.1.6 Write to new@example.org",
                "*": "mx",
            }
        ],
    )
    """Where mail goes, when not to the maildirs or by MX: docs/transport.md says more. The most specific entry counts."""
    queue: Queue = Field(default_factory=Queue)
    srs: Srs = Field(default_factory=Srs)
    control: Control = Field(default_factory=Control)
    delivery: Delivery = Field(default_factory=Delivery)
    login: Login = Field(default_factory=Login)
    oauth: OAuth = Field(default_factory=OAuth)
    pop3: Pop3 = Field(default_factory=Pop3)
    policy: PolicyTable = Field(default_factory=PolicyTable)

    @property
    def worker_count(self) -> int:
        """How many processes serve, on the cores that this one may use."""
        return self.workers if self.workers != "auto" else min(len(os.sched_getaffinity(0)), MOST_WORKERS)

    @property
    def transports(self) -> TransportMap:
        """Where mail goes, as the operator says it."""
        delimiter, open_domains = self.delivery.subaddress_delimiter, frozenset(self.relay.all_addresses_of)
        return TransportMap(self.transport, delimiter=delimiter, open_domains=open_domains)

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
        return control_file_in(self.folder)

    @property
    def directory_file(self) -> Path:
        """The file that says who exists."""
        return self.folder / "directory.db"


class _Whereabouts(Table):
    """What who asks the running server must know; the files that the rest of the configuration names may be closed to him."""

    model_config = ConfigDict(extra="ignore")

    folder: FolderPath = Field(default=Path())


def control_file_in(folder: Path) -> Path:
    """Return where the server of a folder can be asked."""
    return folder / "control"


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
        raise _refusal(path, text, wrong)
    return settings


def load_folder(path: Path) -> Path:
    """
    Read of a configuration the folder alone, and of the files that it names none.

    Raises:  SettingsError.
    """
    text, document = _read(path)
    try:
        return _Whereabouts.model_validate(document, context={"folder": path.absolute().parent}).folder
    except ValidationError as error:
        raise _refusal(path, text, [(each["loc"], reason(each, ())) for each in error.errors(include_url=False)]) from None


def _refusal(path: Path, text: str, wrong: Sequence[tuple[Place, str]]) -> SettingsError:
    lines = lines_of_keys(text)
    problems = [Problem(str(path), locate(lines, place), shown_key(place), why) for place, why in wrong]
    return SettingsError(tuple(sorted(problems, key=lambda problem: problem.line)))


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
    for one, other in (("client_certificate", "client_key"), ("client_key", "client_certificate")):
        if one in relay and other not in relay:
            yield ("relay", one), f"needs relay.{other} beside it: both or none"
    if "client_authority" in tls and "certificate" not in tls:
        yield ("tls", "client_authority"), "needs tls.certificate and tls.key beside it"
    if "client_revocations" in tls and "client_authority" not in tls:
        yield ("tls", "client_revocations"), "needs tls.client_authority beside it"
    if not tls:
        for service in _TLS_SERVICES:
            if listen.get(service.value):
                yield (
                    ("listen", service.value),
                    "needs TLS: set tls.certificate and tls.key",
                )
    srs = table("srs")
    for one, other in (("domain", "secret_file"), ("secret_file", "domain")):
        if one in srs and other not in srs:
            yield ("srs", one), f"needs srs.{other} beside it: both or none"
    yield from _taken_twice(listen)
    yield from _open_lmtp(listen, table("receive"))
    yield from _smarthost_login(relay)
    yield from _partial_oauth(table("oauth"), tls)
    yield from _transports(table("transport"))
    yield from _all_addresses(relay, table("transport"))
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


def _transports(entries: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    seen: dict[str, str] = {}
    for name, value in entries.items():
        try:
            pattern = parse_pattern(name)
        except TransportError:
            continue
        if pattern in seen:
            yield ("transport", name), f"is the same as {seen[pattern]}"
        seen[pattern] = name
        if pattern == ANY and value == "local":
            yield ("transport", name), "is for what is not ours, and that cannot be delivered here"


def _all_addresses(relay: Mapping[str, Any], entries: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    domains = relay.get("all_addresses_of")
    for number, domain in enumerate(domains if isinstance(domains, list) else ()):
        try:
            name = parse_domain(domain) if isinstance(domain, str) else ""
        except AddressError:
            continue
        above = [name, *(f".{'.'.join(name.split('.')[at:])}" for at in range(1, name.count(".") + 1))]
        if name and not any(each.lower() in above for each in entries):
            yield ("relay", "all_addresses_of", number), f"needs an entry for {name} in [transport]: where its mail goes"


def _smarthost_login(relay: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    for one, other in (
        ("smarthost_username", "smarthost_password_file"),
        ("smarthost_password_file", "smarthost_username"),
    ):
        if one in relay and other not in relay:
            yield ("relay", one), f"needs relay.{other} beside it: both or none"
        elif one in relay and "smarthost" not in relay:
            yield ("relay", one), "needs relay.smarthost: there is nobody to log in at"
    if "smarthost_username" in relay and relay.get("tls") in ("none", "may"):
        yield (
            ("relay", "tls"),
            'a password is to be sent, so relay.tls must be "verify" or "encrypt"',
        )


def _partial_oauth(oauth: Mapping[str, Any], tls: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    together = ("introspection_url", "client_id", "client_secret_file")
    there = [key for key in together if key in oauth]
    missing = [f"oauth.{key}" for key in together if key not in oauth]
    if there and missing:
        yield ("oauth", there[0]), f"needs {' and '.join(missing)} beside it: all of them or none"
    if there and not tls:
        yield ("oauth", there[0]), "needs TLS, or no token is taken: set tls.certificate and tls.key"
