"""
IN: the receiver, for mail from other servers (SMTP), from our users (submission), and from a neighbour in the house (LMTP).

For: sessions and transactions, from the greeting to the one 250 that takes responsibility. The language is in `wire`; this room
puts it on a transport, asks whoever decides, and hands the message to the spool.

    factory            makes sessions, within caps; ends them all (a `twisted.mail.smtp.SMTPFactory`)
    protocol           one session: the loop around the core, TLS, back-pressure, times
    duties             what a session does for each event, and what it knows of its peer: hello, TLS, account
    transaction        our own reception: judge, router, draft, trace field, commit
    message_delivery   the reception by someone else's `twisted.mail` IMessageDelivery
    outlet             what stops us when the peer does not read
    ports, interfaces  what the room needs from others

Knows: `mail`, `wire`, `doors.Transaction` (a value), `events`, Twisted. Sees spool, route, policy and directory only as
Protocols of its own. Clock, names, TLS and the way to start a coroutine are arguments.

Promises: a 250 after a content is sent in one place, after `Draft.commit` said that the message is on stable storage; whatever
fails unexpectedly is a 451; a peer that vanishes before the dot has sent nothing, and after the dot has sent it once.

Why a loop of our own under SMTPFactory: `smtp.ESMTP` answers in the order in which Deferreds fire, runs what stands behind a
STARTTLS and the rest of a content whose line is too long, and turns every failure into 550; repairing it means overriding all
of it. Its seams are kept: SMTPFactory, Portal, IMessageDelivery, IMessageDeliveryFactory, IMessageSMTP.

Carries: RFC 5321 · RFC 6409 (§6, §8) · RFC 2033 · RFC 3207 · RFC 4954 · RFC 4422, appendix A · RFC 7628 · RFC 7677 ·
RFC 8314 §3.3 · XCLIENT and XFORWARD of Postfix.
"""
