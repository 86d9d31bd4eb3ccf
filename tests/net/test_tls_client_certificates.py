"""Certificates of users: asked for where there is an authority, verified, and never asked of other servers."""

from __future__ import annotations

import datetime
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from test_tls import write_pair
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

from mailstack.channel import certified_names, channel_bindings
from mailstack.console.certificates import Pair, make_authority, make_server
from mailstack.net.tls import CertificateError, CertificateStore

NOW = datetime.datetime.now(datetime.UTC)
OURS, THEIRS = (make_authority(name, NOW.timestamp()) for name in ("ours.test", "theirs.test"))


def a_user(
    authority: Pair = OURS, *, days: int = 1, usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH
) -> tuple[x509.Certificate, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Alice")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=3))
        .not_valid_after(NOW + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.RFC822Name("alice@x.test")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(authority.key, hashes.SHA256())
    )
    return certificate, key


class Ends:
    """Both ends of a TLS session in memory."""

    def __init__(self, creator: Any, user: tuple[x509.Certificate, Any] | None, version: int) -> None:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        if user is not None:
            context.use_certificate(user[0])
            context.use_privatekey(user[1])
        self.client = SSL.Connection(context, None)
        self.client.set_connect_state()
        self.server = creator.serverConnectionForTLS(
            TLSMemoryBIOProtocol(TLSMemoryBIOFactory(creator, False, Factory()), Protocol())
        )
        self.server.set_accept_state()

    def shake_hands(self) -> None:
        for one, other in [(self.client, self.server), (self.server, self.client)] * 4:
            try:
                one.do_handshake()
            except SSL.WantReadError:
                pass
            finally:
                with suppress(SSL.WantReadError):
                    other.bio_write(one.bio_read(1 << 16))

    @property
    def names(self) -> tuple[str, ...]:
        class Transport:
            getHandle = lambda _: self.server  # noqa: E731 (as a transport has it)

        return certified_names(Transport())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CertificateStore:
    folder = tmp_path_factory.mktemp("tls")
    (folder / "users.pem").write_bytes(OURS.certificate_pem())
    store = CertificateStore(*write_pair(folder, "mx.test"), folder / "users.pem")
    store.load()
    return store


versions = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])


@versions
@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_a_user_is_known_by_the_certificate(store: CertificateStore, version: int) -> None:
    ends = Ends(store.for_users, a_user(), version)
    ends.shake_hands()
    assert ends.names == ("alice@x.test",)


@versions
def test_who_has_none_comes_in_without(store: CertificateStore, version: int) -> None:
    ends = Ends(store.for_users, None, version)
    ends.shake_hands()
    assert ends.names == ()


@versions
@pytest.mark.parametrize(
    "user",
    [a_user(THEIRS), a_user(days=-1), a_user(usage=ExtendedKeyUsageOID.SERVER_AUTH)],
    ids=["of another authority", "expired", "for servers"],
)
def test_a_wrong_one_ends_the_handshake(store: CertificateStore, version: int, user: Any) -> None:
    ends = Ends(store.for_users, user, version)
    with pytest.raises(SSL.Error):
        ends.shake_hands()


@versions
def test_one_that_is_its_own_authority_ends_the_handshake(store: CertificateStore, version: int) -> None:
    forged = a_user(Pair(OURS.certificate, ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(SSL.Error):
        Ends(store.for_users, forged, version).shake_hands()


@versions
def test_other_servers_are_not_asked(store: CertificateStore, version: int) -> None:
    ends = Ends(store, a_user(THEIRS), version)
    ends.shake_hands()
    assert ends.server.get_peer_certificate() is None
    assert ends.names == ()


@versions
def test_the_client_is_told_which_authority_is_meant(store: CertificateStore, version: int) -> None:
    ends = Ends(store.for_users, a_user(), version)
    ends.shake_hands()
    assert [name.CN for name in ends.client.get_client_ca_list()] == ["mailstack authority of ours.test"]


@versions
def test_without_an_authority_nobody_is_asked(tmp_path: Path, version: int) -> None:
    store = CertificateStore(*write_pair(tmp_path, "mx.test"))
    store.load()
    ends = Ends(store.for_users, a_user(THEIRS), version)
    ends.shake_hands()
    assert ends.names == ()


def test_an_authority_that_cannot_be_used_is_named_and_changes_nothing(tmp_path: Path) -> None:
    users = tmp_path / "users.pem"
    users.write_bytes(OURS.certificate_pem())
    store = CertificateStore(*write_pair(tmp_path, "mx.test"), users)
    store.load()
    before = store.pem
    for octets in (b"", b"nonsense"):
        users.write_bytes(octets)
        with pytest.raises(CertificateError, match=r"users\.pem: "):
            store.load()
    users.unlink()
    with pytest.raises(CertificateError, match=r"users\.pem: "):
        store.load()
    assert store.pem is before
    ends = Ends(store.for_users, a_user(), SSL.TLS1_3_VERSION)
    ends.shake_hands()
    assert ends.names == ("alice@x.test",)


def a_list(authority: Pair, *revoked: x509.Certificate, begins: int = -1, ends: int = 1) -> bytes:
    """Make a list of revocations, which is in force within these days."""
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(NOW + datetime.timedelta(days=begins))
        .next_update(NOW + datetime.timedelta(days=ends))
    )
    for each in revoked:
        serial = x509.RevokedCertificateBuilder().serial_number(each.serial_number).revocation_date(NOW).build()
        made = made.add_revoked_certificate(serial)
    return made.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM)


def between(authority: Pair) -> Pair:
    """Make an authority below another one."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "between")]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=3))
        .not_valid_after(NOW + datetime.timedelta(days=3))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority.key, hashes.SHA256())
    )
    return Pair(certificate, key)


class WithLists:
    """A store with lists of revocations."""

    def __init__(self, folder: Path, authority: Pair = OURS) -> None:
        self.file = folder / "users.crl"
        (folder / "users.pem").write_bytes(authority.certificate_pem())
        self.refused: list[tuple[Any, str, str]] = []
        self.store = CertificateStore(
            *write_pair(folder, "mx.test"), folder / "users.pem", self.file, refused=lambda *told: self.refused.append(told)
        )

    def load(self, *lists: bytes) -> None:
        self.file.write_bytes(b"".join(lists))
        self.store.load()

    def shake_hands(self, user: Any, version: int) -> str:
        """Return why the user was refused, or "" for a good one."""
        self.refused.clear()
        ends = Ends(self.store.for_users, user, version)
        try:
            ends.shake_hands()
        except SSL.Error:
            ((address, subject, why),) = self.refused
            assert address is None, "there is no transport"
            assert re.fullmatch("CN=(Alice|between|root), number [0-9A-F]+", subject)
            return why
        assert ends.names == ("alice@x.test",)
        assert not self.refused
        return ""


class TestRevocation:
    @pytest.fixture
    def lists(self, tmp_path: Path) -> WithLists:
        return WithLists(tmp_path)

    @versions
    def test_who_is_revoked_stays_out_from_the_next_load_on(self, lists: WithLists, version: int) -> None:
        alice, other = a_user(), a_user()
        lists.load(a_list(OURS))
        assert [lists.shake_hands(each, version) for each in (alice, other)] == ["", ""]
        lists.load(a_list(OURS, alice[0]))
        assert [lists.shake_hands(each, version) for each in (alice, other)] == ["cert revoked", ""]

    @versions
    @pytest.mark.parametrize(
        ("made", "why"),
        [
            (a_list(OURS, begins=-3, ends=-1), "crl has expired"),
            (a_list(OURS, begins=1, ends=2), "crl not yet valid"),
            (a_list(THEIRS), "unable to get crl"),
            (a_list(Pair(OURS.certificate, THEIRS.key)), "crl signature failure"),
        ],
        ids=["expired", "of tomorrow", "of another authority", "forged"],
    )
    def test_without_a_good_list_nobody_comes_in(self, lists: WithLists, version: int, made: bytes, why: str) -> None:
        lists.load(made)
        assert lists.shake_hands(a_user(), version) == why

    @versions
    def test_the_newer_of_two_lists_counts(self, lists: WithLists, version: int) -> None:
        alice = a_user()
        for order in (1, -1):
            lists.load(b"a comment\n", *[a_list(OURS, begins=-3, ends=-1), a_list(OURS, alice[0])][::order])
            assert lists.shake_hands(alice, version) == "cert revoked"

    @versions
    def test_the_whole_chain_is_looked_up(self, tmp_path: Path, version: int) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
        root = Pair(
            x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
            .serial_number(1).not_valid_before(NOW - datetime.timedelta(days=3))
            .not_valid_after(NOW + datetime.timedelta(days=3))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .sign(key, hashes.SHA256()),
            key,
        )  # fmt: skip
        middle = between(root)
        lists = WithLists(tmp_path, root)
        (tmp_path / "users.pem").write_bytes(root.certificate_pem() + middle.certificate_pem())
        alice = a_user(middle)
        for made, why in (
            ([a_list(root), a_list(middle)], ""),
            ([a_list(root)], "unable to get crl"),
            ([a_list(middle)], "unable to get crl"),
            ([a_list(root, middle.certificate), a_list(middle)], "cert revoked"),
        ):
            lists.load(*made)
            assert lists.shake_hands(alice, version) == why

    def test_no_session_is_resumed_since_that_would_not_be_looked_up(self, lists: WithLists) -> None:
        lists.load(a_list(OURS))
        options = lists.store._asking_options
        assert options is not None
        assert options.getContext().get_session_cache_mode() == SSL.SESS_CACHE_OFF
        assert options._options & SSL.OP_NO_TICKET

    def test_a_file_that_cannot_be_used_is_named_and_changes_nothing(self, lists: WithLists) -> None:
        lists.load(a_list(OURS))
        before = lists.store.pem
        whole = a_list(OURS)
        for octets in (b"", b"nonsense", OURS.certificate_pem(), whole[:-20], whole.replace(b"\nMI", b"\nMA")):
            with pytest.raises(CertificateError, match=r"users\.crl: "):
                lists.load(octets)
        lists.file.unlink()
        with pytest.raises(CertificateError, match=r"users\.crl: "):
            lists.store.load()
        assert lists.store.pem is before
        assert lists.shake_hands(a_user(), SSL.TLS1_3_VERSION) == ""


def test_both_ends_know_the_same_of_their_session(store: CertificateStore) -> None:
    ends = Ends(store.for_users, a_user(), SSL.TLS1_3_VERSION)
    ends.shake_hands()
    ours, theirs = (type("Transport", (), {"getHandle": lambda _, end=end: end})() for end in (ends.server, ends.client))
    assert channel_bindings(ours) == channel_bindings(theirs, is_client=True)
    assert set(channel_bindings(ours)) == {"tls-exporter", "tls-server-end-point"}


def test_a_certificate_of_a_server_is_none_of_a_user(store: CertificateStore) -> None:
    pair = make_server(OURS, "x.test", NOW.timestamp())
    with pytest.raises(SSL.Error):
        Ends(store.for_users, (pair.certificate, pair.key), SSL.TLS1_3_VERSION).shake_hands()
    assert pair.certificate.public_bytes(Encoding.PEM)
