"""
LANGUAGES, sans-I/O: octets to events and replies to octets, for SMTP, submission, LMTP and POP3.

For: the protocols themselves, as cores without sockets, clocks or threads. A Protocol of Twisted in another room is a short
loop around a core:

    core.receive(octets)                 keep octets that came
    core.next_event()                    an event, or NEED_OCTETS, or AWAITING_REPLY
    core.send(reply) -> octets           legal only while a reply is owed; moves the state
    core.tls_started()                   forget everything that was learned in the clear

`AWAITING_REPLY` is the one rule that orders everything: the next command is not looked at before the last has its answer. So
pipelining, slow policies and slow disks cannot reorder replies, and nothing that stands behind a STARTTLS can run inside TLS.

What a peer does wrong is an event, `Refused(reply)`; it is answered like any other. What *we* do wrong is a LocalProtocolError,
a bug. Nothing else leaves a core, whatever comes in, and what a core holds is bounded.

Why a binary content is converted here: a host that takes BINARYMIME must encode the binary parts for whoever does not (RFC 3030
§3), and that is nearly everybody: no mailbox that is read by POP3, hardly any next host, and no program that looks for line
ends. Done later it would be done at many borders, each with a message to be read once more; done here, while the octets come,
it is done once, and the rule of the house stays true that no content holds a bare CR or LF. What it costs: a signature over a
binary part (DKIM, S/MIME) does not hold any more, so whoever wants these can do without the extension (`Limits.binary`).

Knows: `mail`. Touches: nothing. No splitlines(), strip() or universal newlines: a line of the wire ends with CRLF only.

Carries: RFC 5321 (SMTP) · RFC 6409 (submission) · RFC 2033 (LMTP) · RFC 1870 (SIZE) · RFC 2034 (ENHANCEDSTATUSCODES) · RFC 2920
(PIPELINING) · RFC 3207 (STARTTLS) · RFC 4954 (AUTH) · RFC 4616 (PLAIN) · RFC 5802, 7677, 5929 and 9266 (SCRAM and
its channel bindings) · RFC 4422, appendix A (EXTERNAL) · RFC 7628 (OAUTHBEARER) · XOAUTH2 of Google · RFC 6152 (8BITMIME) ·
RFC 3030 (CHUNKING, BINARYMIME) · RFC 1939, 2449, 2595 and 5034 (POP3) · XCLIENT and XFORWARD of Postfix · the PROXY protocol of
HAProxy, versions 1 and 2.
"""
