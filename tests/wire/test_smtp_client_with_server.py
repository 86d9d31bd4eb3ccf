"""The client core against the server core: whatever is stored, one message arrives, and it is the one that was meant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from smtp_dialogue import Session as Server

from fuzz.binary import leaves
from mailstack.mail.address import Address, parse_address
from mailstack.mail.crlf import normalise_newlines
from mailstack.mail.requests import Notify, OriginalRecipient, Requests, Return
from mailstack.mail.scram import ScramProof
from mailstack.wire.events import NEED_OCTETS
from mailstack.wire.limits import BareNewline, Limits
from mailstack.wire.smtp_client import SMTPClientCore
from mailstack.wire.smtp_commands import Authenticate, ContentChunk, ContentEnd, Data, Hello, Mail, Quit, Rcpt, Refused
from mailstack.wire.smtp_mailing import TLS, Asked, Closed, Finished, Login, Mailing, Ready, Send, SendContent, StartTLS
from mailstack.wire.smtp_server import SMTPServerCore
from mailstack.wire.smtp_table import Role

PIECES = st.sampled_from(
    [
        b".",
        b"..",
        b"\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"a",
        b" ",
        b"\r\n.\r\n",
        b"\n.\n",
        b"\r.\r",
        b"\n.\r\n",
        b"\x00",
        b"\xff",
        b"MAIL FROM:<evil@x.test>\r\n",
        b"QUIT\r\n",
    ]
)
CONTENTS = st.one_of(st.lists(PIECES, max_size=30).map(b"".join), st.binary(max_size=200))


def converse(
    client: SMTPClientCore, server: Server, contents: list[tuple[Mailing, bytes]], cut: int, chunk: int
) -> list[Finished]:
    """Carry octets to and fro until both are silent."""
    finished: list[Finished] = []
    waiting = list(contents)

    def carry(octets: bytes) -> None:
        for at in range(0, len(octets), cut):
            server.feed(octets[at : at + cut])

    def next_mailing() -> None:
        if waiting:
            client.begin(waiting[0][0])
        else:
            client.quit()

    while server.output:
        octets, server.output = server.output, b""
        for at in range(0, len(octets), cut):
            client.receive(octets[at : at + cut])
            while (event := client.next_event()) is not NEED_OCTETS:
                match event:
                    case Send(octets=written):
                        carry(written)
                    case Ready():
                        next_mailing()
                    case StartTLS():
                        server.core.tls_started()
                        client.tls_started()
                    case SendContent():
                        content = waiting[0][1]
                        for start in range(0, len(content), chunk):
                            carry(client.content(content[start : start + chunk]))
                        carry(client.end_content())
                    case Finished():
                        finished.append(event)
                        waiting.pop(0)
                        next_mailing()
                    case Closed():
                        return finished
                    case _:
                        raise AssertionError(event)
    raise AssertionError("silence before QUIT was answered")


def whole(content: bytes) -> bytes:
    canonical = normalise_newlines(content)
    return canonical if not canonical or canonical.endswith(b"\r\n") else canonical + b"\r\n"


def mailing(content: bytes, *recipients: str) -> Mailing:
    return Mailing(
        reverse_path=parse_address("alice@us.test"),
        recipients=tuple(parse_address(each) for each in recipients or ("bob@example.org",)),
        octets=len(whole(content)),
        eight_bit=not content.isascii(),
    )


@given(
    st.lists(CONTENTS, min_size=1, max_size=3),
    st.sampled_from([1, 2, 7, 100_000]),
    st.sampled_from([1, 2, 5, 65_536]),
    st.sampled_from([Role.MX, Role.LMTP]),
)
@settings(max_examples=300, deadline=None)
def test_what_is_sent_is_what_arrives(contents, cut, chunk, role):
    server = Server(SMTPServerCore(role, Limits(), "mx.example.org"))
    client = SMTPClientCore("us.test", lmtp=role is Role.LMTP, chunking=False)
    finished = converse(client, server, [(mailing(each), each) for each in contents], cut, chunk)
    assert server.messages == [whole(each) for each in contents]
    assert [[result.is_accepted for result in each.results] for each in finished] == [[True]] * len(contents)
    assert sum(isinstance(event, Mail) for event in server.events) == len(contents)


@given(
    st.lists(CONTENTS.map(whole), min_size=1, max_size=3),
    st.sampled_from([1, 2, 7, 100_000]),
    st.sampled_from([1, 2, 5, 65_536]),
    st.sampled_from([Role.MX, Role.LMTP]),
)
@settings(max_examples=200, deadline=None)
def test_what_is_sent_by_bdat_is_what_arrives(contents, cut, chunk, role):
    server = Server(SMTPServerCore(role, Limits(), "mx.example.org"))
    client = SMTPClientCore("us.test", lmtp=role is Role.LMTP)
    finished = converse(client, server, [(mailing(each), each) for each in contents], cut, chunk)
    assert server.messages == contents
    assert [[result.is_accepted for result in each.results] for each in finished] == [[True]] * len(contents)
    assert sum(isinstance(event, Mail) for event in server.events) == len(contents)
    assert "CHUNKING" in client.offered


def test_results_belong_to_their_recipients():
    for cut in (1, 1000):
        server = Server(SMTPServerCore(Role.MX, Limits(), "mx.example.org"))
        names = "a@x.test", "unknown@x.test", "b@x.test", "unknown@y.test"
        (finished,) = converse(SMTPClientCore("us.test"), server, [(mailing(b"x\r\n", *names), b"x\r\n")], cut, 100)
        assert [each.is_accepted for each in finished.results] == [True, False, True, False]
        assert str(finished.results[1].reply.enhanced) == "5.1.1"


def test_nobody_accepted_and_then_another():
    server = Server(SMTPServerCore(Role.MX, Limits(), "mx.example.org"))
    tries = [(mailing(b"1\r\n", "unknown@x.test"), b"1\r\n"), (mailing(b"2\r\n"), b"2\r\n")]
    finished = converse(SMTPClientCore("us.test"), server, tries, 1000, 100)
    assert [each.results[0].is_accepted for each in finished] == [False, True]
    assert server.messages == [b"2\r\n"]


def test_tls_and_login():
    server = Server(SMTPServerCore(Role.SUBMISSION, Limits(), "mx.example.org", tls_available=True))
    client = SMTPClientCore("us.test", tls=TLS.MUST, login=Login("alice", "secret"))
    (finished,) = converse(client, server, [(mailing(b"x\r\n"), b"x\r\n")], 3, 100)
    assert finished.results[0].is_accepted
    assert client.tls_active


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_scram(cut):
    core = SMTPServerCore(Role.SUBMISSION, Limits(), "mx.example.org", tls_available=True, scram=True)
    server = Server(core)
    client = SMTPClientCore("us.test", tls=TLS.MUST, login=Login("user", "pencil"), nonce="client")
    (finished,) = converse(client, server, [(mailing(b"x\r\n"), b"x\r\n")], cut, 100)
    assert finished.results[0].is_accepted
    assert [type(each.credentials) for each in server.events if isinstance(each, Authenticate)] == [ScramProof]


def bound(ours, theirs):
    """Return a client that knows this of its TLS session, and a server that knows that."""
    core = SMTPServerCore(Role.SUBMISSION, Limits(), "mx.example.org", tls_active=True, scram=True)
    core.bind_channel({"tls-exporter": theirs})
    client = SMTPClientCore("us.test", tls_active=True, login=Login("user", "pencil"), nonce="client")
    client.bind_channel({"tls-exporter": ours})
    return client, Server(core)


def mechanisms(server):
    return [each.mechanism for each in server.events if isinstance(each, Authenticate)]


def test_scram_bound_to_the_session():
    client, server = bound(b"x", b"x")
    (finished,) = converse(client, server, [(mailing(b"x\r\n"), b"x\r\n")], 1000, 100)
    assert finished.results[0].is_accepted
    assert mechanisms(server) == ["SCRAM-SHA-256-PLUS"]


def test_scram_bound_to_another_session():
    client, server = bound(b"x", b"another")
    with pytest.raises(AssertionError, match="Refused"):
        converse(client, server, [(mailing(b"x\r\n"), b"x\r\n")], 1000, 100)
    assert "SCRAM-SHA-256-PLUS" not in mechanisms(server)


LOCAL_PARTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=20)


@given(st.lists(LOCAL_PARTS, min_size=1, max_size=5, unique=True))
@settings(max_examples=200, deadline=None)
def test_any_local_part_arrives_as_it_is(local_parts):
    names = tuple(Address(each, "x.test") for each in local_parts if each not in ("refused", "unknown"))
    if names:
        server = Server(SMTPServerCore(Role.MX, Limits(), "mx.example.org"))
        value = Mailing(reverse_path=names[0], recipients=names, octets=0)
        converse(SMTPClientCore("us.test"), server, [(value, b"")], 1000, 100)
        assert [event.forward_path for event in server.events if isinstance(event, Rcpt)] == list(names)
        assert [event.reverse_path for event in server.events if isinstance(event, Mail)] == [names[0]]


@given(st.lists(PIECES, max_size=30).map(b"".join), st.lists(st.integers(1, 40), max_size=10), st.sampled_from([1, 100_000]))
@settings(max_examples=200, deadline=None)
def test_what_came_by_bdat_leaves_by_data_as_the_one_message_that_it_is(content, sizes, cut):
    server = Server(SMTPServerCore(Role.MX, Limits(bare_newline=BareNewline.NORMALISE), "mx.example.org"))
    server.feed(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\n")
    left = content
    for size in sizes:
        chunk, left = left[:size], left[size:]
        server.feed(b"BDAT %d\r\n" % len(chunk) + chunk)
    server.feed(b"BDAT %d LAST\r\n" % len(left) + left)
    (taken,) = server.messages
    assert taken == whole(content)
    following = Server(SMTPServerCore(Role.MX, Limits(), "mx.following.org"))
    converse(SMTPClientCore("us.test", chunking=False), following, [(mailing(taken), taken)], cut, 7)
    assert following.messages == [taken]
    assert sum(isinstance(event, Mail) for event in following.events) == 1


@given(
    st.lists(CONTENTS, min_size=1, max_size=3),
    st.lists(st.integers(1, 60), max_size=10),
    st.sampled_from([1, 7, 100_000]),
    st.sampled_from([Role.MX, Role.LMTP]),
)
@settings(max_examples=200, deadline=None)
def test_what_came_as_binary_leaves_by_data_with_the_same_octets_in_its_parts(parts, sizes, cut, role):
    content = b"Content-Type: multipart/mixed; boundary=never\r\nContent-Transfer-Encoding: binary\r\n"
    for part in parts:
        content += b"\r\n--never\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n" + part
    content += b"\r\n--never--\r\n"
    server = Server(SMTPServerCore(role, Limits(), "mx.example.org"))
    hello = b"LHLO c\r\n" if role is Role.LMTP else b"EHLO c\r\n"
    server.feed(hello + b"MAIL FROM:<> BODY=BINARYMIME\r\nRCPT TO:<bob@example.org>\r\n")
    left = content
    for size in sizes:
        chunk, left = left[:size], left[size:]
        server.feed(b"BDAT %d\r\n" % len(chunk) + chunk)
    server.feed(b"BDAT %d LAST\r\n" % len(left) + left)
    (taken,) = server.messages
    following = Server(SMTPServerCore(Role.MX, Limits(), "mx.following.org"))
    (finished,) = converse(SMTPClientCore("us.test", chunking=False), following, [(mailing(taken), taken)], cut, 7)
    assert finished.results[0].is_accepted
    assert following.messages == [taken]
    assert [octets for _, octets in leaves(taken)] == parts
    assert taken.isascii()


PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)
ENVELOPE_IDS = st.text(PRINTABLE, min_size=1, max_size=33)  # at most 100 when each of them is encoded
ORIGINALS = st.one_of(
    st.builds(OriginalRecipient, st.just("rfc822"), st.text(PRINTABLE, min_size=1, max_size=150)),
    st.builds(
        OriginalRecipient,
        st.just("utf-8"),
        st.text(st.characters(min_codepoint=0x21, blacklist_categories=("C", "Z")), min_size=1, max_size=40),
    ),
)
NOTIFIES = st.one_of(
    st.none(),
    st.just(frozenset((Notify.NEVER,))),
    st.frozensets(st.sampled_from([Notify.SUCCESS, Notify.FAILURE, Notify.DELAY]), min_size=1),
)


@given(ENVELOPE_IDS, ORIGINALS, NOTIFIES, st.sampled_from([None, *Return]))
@settings(max_examples=200, deadline=None)
def test_what_the_sender_asked_arrives_as_it_was_and_is_nothing_more(envelope_id, original, notify, returns):
    server = Server(SMTPServerCore(Role.MX, Limits(), "mx.example.org"))
    value = replace(
        mailing(b"x\r\n"),
        requests=Requests(returns=returns, envelope_id=envelope_id),
        asked=(Asked(notify, original),),
    )
    (finished,) = converse(SMTPClientCore("us.test"), server, [(value, b"x\r\n")], 1000, 100)
    assert finished.results[0].is_accepted
    assert "DSN" in finished.results[0].honours
    (mail,) = [event for event in server.events if isinstance(event, Mail)]
    (rcpt,) = [event for event in server.events if isinstance(event, Rcpt)]
    assert (mail.envelope_id, mail.returns) == (envelope_id, returns)
    assert (rcpt.notify, rcpt.original_recipient) == (notify, original)


@pytest.mark.parametrize("address", ["é" * 100 + "\\@y", "+" * 160 + "@y", "=" * 100 + "é" * 50 + "甲" * 30])
def test_an_original_recipient_that_fits_in_the_shortest_form_alone_goes_on_in_that(address):
    server, original = Server(SMTPServerCore(Role.MX, Limits(), "mx.example.org")), OriginalRecipient("utf-8", address)
    value = replace(mailing(b"x\r\n"), smtputf8=True, asked=(Asked(None, original),))
    converse(SMTPClientCore("us.test"), server, [(value, b"x\r\n")], 1000, 100)
    (rcpt,) = [event for event in server.events if isinstance(event, Rcpt)]
    assert rcpt.original_recipient == original


@given(st.text(max_size=100), st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_no_text_in_a_request_can_end_a_command(envelope_id, original):
    value = replace(
        mailing(b"x\r\n"),
        requests=Requests(envelope_id=envelope_id),
        asked=(Asked(None, OriginalRecipient("rfc822", original)),),
    )
    server = Server(SMTPServerCore(Role.MX, Limits(), "mx.example.org"))
    converse(SMTPClientCore("us.test"), server, [(value, b"x\r\n")], 1000, 100)
    assert sum(isinstance(event, Mail) for event in server.events) <= 1
    expected = Mail | Rcpt | Data | ContentChunk | ContentEnd | Hello | Quit | Refused
    assert all(isinstance(event, expected) for event in server.events)
