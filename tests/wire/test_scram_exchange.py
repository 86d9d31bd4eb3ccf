"""SCRAM: the server's exchange and the client's, each against the examples and against the other."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailstack.mail.scram import ScramProof, make_keys
from mailstack.wire.errors import LocalProtocolError, RemoteProtocolError, SaslBindingError, SaslError, SaslMalformedError
from mailstack.wire.mechanisms import offered_mechanisms
from mailstack.wire.sasl import Challenge, KeysWanted
from mailstack.wire.scram import MAX_ITERATIONS, Bindings, ScramClient, ScramExchange

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = make_keys(b"pencil", SALT, 4096)
CLIENT, SERVER = "rOprNGfwEbeRWgbNEkqO", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FIRST = f"r={CLIENT}{SERVER},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096".encode()
FINAL = f"c=biws,r={CLIENT}{SERVER},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=".encode()
LAST = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
BOTH: Bindings = {"tls-server-end-point": b"certificate", "tls-exporter": b"session"}


def encoded(message: bytes) -> bytes:
    return base64.b64encode(message) or b"="


def finished(client: ScramClient, exchange: ScramExchange) -> ScramProof:
    """Run a client against a server, and return what the server has of it."""
    wanted = exchange.step(encoded(client.first()))
    assert isinstance(wanted, KeysWanted)
    said = exchange.step(encoded(client.final(exchange.give_keys(KEYS, SERVER).octets)))
    if isinstance(said, Challenge):
        client.verify(said.octets)
        said = exchange.step(b"")
    assert isinstance(said, ScramProof)
    return said


class TestServer:
    def test_the_example_of_rfc_7677(self) -> None:
        exchange = ScramExchange({}, plus=False)
        assert exchange.step(None) == Challenge(b"")
        assert exchange.step(encoded(f"n,,n=user,r={CLIENT}".encode())) == KeysWanted(b"user")
        assert exchange.give_keys(KEYS, SERVER) == Challenge(FIRST)
        assert exchange.step(encoded(FINAL)) == Challenge(LAST)
        proof = exchange.step(b"")
        assert isinstance(proof, ScramProof)
        assert proof.is_by(KEYS)

    @pytest.mark.parametrize(
        ("name", "username"),
        [
            (b"a=2Cb", b"a,b"),
            (b"a=3Db", b"a=b"),
            (b"=3D2C", b"=2C"),
            ("ädi@example.org".encode(), "ädi@example.org".encode()),
            ("I\u00adX".encode(), b"IX"),
            (b"=2C" * 255, b"," * 255),
        ],
    )
    def test_names(self, name: bytes, username: bytes) -> None:
        assert ScramExchange({}, plus=False).step(encoded(b"n,,n=%b,r=abc" % name)) == KeysWanted(username)

    @pytest.mark.parametrize(
        "name", [b"a=b", b"a=", b"a=2c", b"=3d", b"\xff", b"a\x07", b"a\0", "\u00ad".encode(), b"x" * 256, b"=2C" * 256]
    )
    def test_names_that_are_none(self, name: bytes) -> None:
        for message in (b"n,,n=%b,r=abc" % name, b"n,a=%b,n=user,r=abc" % name):
            with pytest.raises(SaslMalformedError):
                ScramExchange({}, plus=False).step(encoded(message))

    def test_sizes_are_bounded(self) -> None:
        for message in (b"n,,n=user,r=%b" % (b"x" * 257), b"n,,n=user,r=x,e=%b" % (b"x" * 2048)):
            with pytest.raises(SaslMalformedError):
                ScramExchange({}, plus=False).step(encoded(message))
        exchange = ScramExchange(BOTH, plus=False)
        exchange.step(encoded(b"n,,n=user,r=%b" % (b"x" * 256)))
        challenge = exchange.give_keys(make_keys(b"x", b"s" * 48, 1_000_000), "y" * 24)
        assert len(challenge.encoded) <= 506, "a reply of SMTP has 512 octets"

    def test_the_proof_of_another_name_of_the_same_password(self) -> None:
        exchange = ScramExchange({}, plus=False)
        exchange.step(encoded(f"n,,n=other,r={CLIENT}".encode()))
        exchange.give_keys(KEYS, SERVER)
        proof = exchange.step(encoded(FINAL))
        assert isinstance(proof, ScramProof), "at once, and without the signature"
        assert not proof.is_by(KEYS)

    def test_a_replay_has_not_our_nonce(self) -> None:
        exchange = ScramExchange({}, plus=False)
        exchange.step(encoded(f"n,,n=user,r={CLIENT}".encode()))
        exchange.give_keys(KEYS, "another")
        with pytest.raises(SaslMalformedError):
            exchange.step(encoded(FINAL))

    def test_each_bit_of_the_last_message_counts(self) -> None:
        for number in range(len(FINAL) * 8):
            message = bytearray(FINAL)
            message[number // 8] ^= 1 << number % 8
            exchange = ScramExchange({}, plus=False)
            exchange.step(encoded(f"n,,n=user,r={CLIENT}".encode()))
            exchange.give_keys(KEYS, SERVER)
            try:
                said = exchange.step(encoded(bytes(message)))
            except SaslError:
                continue
            assert isinstance(said, ScramProof), number
            assert not said.is_by(KEYS)

    def test_keys_are_given_when_they_are_wanted(self) -> None:
        exchange = ScramExchange({}, plus=False)
        with pytest.raises(LocalProtocolError):
            exchange.give_keys(KEYS, SERVER)
        exchange.step(encoded(b"n,,n=user,r=abc"))
        with pytest.raises(LocalProtocolError):
            exchange.step(b"")
        exchange.give_keys(KEYS, SERVER)
        with pytest.raises(LocalProtocolError):
            exchange.give_keys(KEYS, SERVER)
        exchange.step(encoded(f"c=biws,r=abc{SERVER},p={'A' * 43}=".encode()))
        with pytest.raises(LocalProtocolError):
            exchange.give_keys(KEYS, SERVER)


class TestBinding:
    @pytest.mark.parametrize("kind", BOTH)
    def test_bound(self, kind: str) -> None:
        client = ScramClient("user", "pencil", CLIENT, {kind: BOTH[kind]})
        assert client.first().startswith(f"p={kind},,".encode())
        assert finished(client, ScramExchange(BOTH, plus=True)).is_by(KEYS)

    def test_the_exporter_is_preferred(self) -> None:
        assert ScramClient("user", "pencil", CLIENT, BOTH).first().startswith(b"p=tls-exporter,,")

    @pytest.mark.parametrize("kind", BOTH)
    def test_another_session(self, kind: str) -> None:
        with pytest.raises(SaslBindingError):
            finished(ScramClient("user", "pencil", CLIENT, {kind: b"another"}), ScramExchange(BOTH, plus=True))

    def test_who_takes_plus_out_of_the_offer_is_found_out(self) -> None:
        client = ScramClient("user", "pencil", CLIENT, knows_binding=True)
        assert client.first().startswith(b"y,,")
        with pytest.raises(SaslBindingError):
            ScramExchange(BOTH, plus=False).step(encoded(client.first()))
        assert finished(client, ScramExchange({}, plus=False)).is_by(KEYS)

    def test_who_takes_the_y_out_of_the_first_message_is_found_out(self) -> None:
        client = ScramClient("user", "pencil", CLIENT, knows_binding=True)
        exchange = ScramExchange(BOTH, plus=False)
        exchange.step(encoded(client.first().replace(b"y,,", b"n,,")))
        with pytest.raises(SaslBindingError):
            exchange.step(encoded(client.final(exchange.give_keys(KEYS, SERVER).octets)))

    @pytest.mark.parametrize(("plus", "header"), [(True, b"n,,"), (True, b"y,,"), (False, b"p=tls-exporter,,")])
    def test_plus_and_a_binding_go_together(self, plus: bool, header: bytes) -> None:
        with pytest.raises(SaslMalformedError):
            ScramExchange(BOTH, plus=plus).step(encoded(header + b"n=user,r=abc"))

    @pytest.mark.parametrize("kind", [b"tls-unique", b"TLS-EXPORTER", b"x"])
    def test_a_kind_that_is_not_ours(self, kind: bytes) -> None:
        with pytest.raises(SaslBindingError):
            ScramExchange(BOTH, plus=True).step(encoded(b"p=%b,,n=user,r=abc" % kind))


class TestClient:
    def test_the_example_of_rfc_7677(self) -> None:
        client = ScramClient("user", "pencil", CLIENT)
        assert client.first() == f"n,,n=user,r={CLIENT}".encode()
        assert client.final(FIRST) == FINAL
        client.verify(LAST)

    def test_names_are_escaped(self) -> None:
        assert ScramClient("a,=b", "x", "abc").first() == b"n,,n=a=2C=3Db,r=abc"

    def test_a_password_that_is_not_ascii(self) -> None:
        keys = make_keys("päß\u00ad".encode(), SALT, 4096)
        client, exchange = ScramClient("user", "pa\u0308ß", CLIENT), ScramExchange({}, plus=False)
        exchange.step(encoded(client.first()))
        said = exchange.step(encoded(client.final(exchange.give_keys(keys, SERVER).octets)))
        assert isinstance(said, Challenge)

    @pytest.mark.parametrize(
        "challenge",
        [
            b"",
            b"e=other-error",
            FIRST.replace(b"r=r", b"r=x"),
            FIRST.replace(SERVER.encode(), b""),
            FIRST.replace(b"i=4096", b"i=4095"),
            FIRST.replace(b"i=4096", b"i=%d" % (MAX_ITERATIONS + 1)),
            FIRST.replace(b"i=4096", b"i=999999999999"),
            FIRST.replace(b"i=4096", b"i=-1"),
            FIRST.replace(b"==", b""),
            b"m=x," + FIRST,
            FIRST + b",x=" + b"x" * 2048,
        ],
    )
    def test_a_server_that_is_not_to_be_trusted(self, challenge: bytes) -> None:
        with pytest.raises(RemoteProtocolError):
            ScramClient("user", "pencil", CLIENT).final(challenge)

    @pytest.mark.parametrize("challenge", [b"", b"e=other-error", LAST[:-1], b"v=" + bytes(44)])
    def test_a_server_that_does_not_know_the_password(self, challenge: bytes) -> None:
        client = ScramClient("user", "pencil", CLIENT)
        client.final(FIRST)
        with pytest.raises(RemoteProtocolError):
            client.verify(challenge)

    def test_a_signature_before_its_turn(self) -> None:
        with pytest.raises(RemoteProtocolError):
            ScramClient("user", "pencil", CLIENT).verify(LAST)


def test_what_is_offered() -> None:
    assert list(offered_mechanisms({}, scram=False)) == ["PLAIN", "LOGIN"]
    assert list(offered_mechanisms(BOTH, scram=False, login=False)) == ["PLAIN"]
    assert list(offered_mechanisms({}, scram=True)) == ["SCRAM-SHA-256", "PLAIN", "LOGIN"]
    assert list(offered_mechanisms(BOTH, scram=True)) == ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"]


PIECES = st.sampled_from(
    [
        b"n,,",
        b"y,,",
        b"p=tls-exporter,,",
        b"n,a=user,",
        b"n=user",
        b"n==2C",
        b",r=",
        CLIENT.encode(),
        SERVER.encode(),
        b",",
        b"=",
        b"c=biws",
        b"c=",
        b",p=",
        b"A" * 43 + b"=",
        b",x=y",
        b"m=",
        b"\x00",
        b"\xff",
        b"x" * 300,
    ]
)
MESSAGES = st.one_of(
    st.lists(PIECES, max_size=8).map(b"".join),
    st.binary(max_size=60),
    st.sampled_from([f"n,,n=user,r={CLIENT}".encode(), FINAL, b""]),
)


@given(st.lists(MESSAGES, max_size=4), st.sampled_from([{}, BOTH]), st.booleans())
@settings(max_examples=500, deadline=None)
def test_whatever_a_client_says_nobody_is_let_in_but_by_the_proof(
    messages: list[bytes], bindings: Bindings, plus: bool
) -> None:
    exchange = ScramExchange(bindings, plus=plus)
    challenges = 0
    for message in messages:
        try:
            said = exchange.step(encoded(message))
        except SaslError:
            return
        if isinstance(said, ScramProof):
            assert not said.is_by(KEYS) or (said.username, challenges) == (b"user", 1)
            return
        if isinstance(said, KeysWanted):
            exchange.give_keys(KEYS, SERVER)
        else:
            challenges += 1
            assert said.octets.startswith(b"v=")
