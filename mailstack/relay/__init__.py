"""
MTA out: mail for other domains, handed to the hosts that take it.

For: one attempt at a time: resolve, connect, speak, and turn what the host said into a disposition for each recipient. Also
the way through a smarthost, with a login, and to another program that delivers, by LMTP; and before all that the choice of the
way, as the operator has it (`by_transport`). A session that has done its work waits a moment for the next message to the same
host.

Knows: values, the client core of `wire`, the rules of `route`, and through protocols of its own a resolver, a way to connect, a
way to fetch a page, a thread, a clock, and what keeps what is known of hosts. Touches sockets and files only through those.
Knows no spool: when the next attempt is, and when it is given up, is decided there.

Promises: a disposition for every recipient, whatever the host does. RELAYED is said only after the host's 2yz to the end of
the content. What is not understood is DELAYED. A password never travels in clear. A host cannot hold a session longer than
its time limits. Mail goes in clear only where the level that is set, and what the domain publishes, allow it.

Sessions are used again: one that turns out to be dead says nothing about its host, so the message goes by a fresh one at once,
unless its content was begun.

Hosts that could not be used are remembered for some minutes, so that not each message finds it out anew. With the outcomes the
spool is told whether the destination is up, crowded or down (`standing`).

Duplicates: a connection that ends between our dot and the host's reply leaves unknown who has the message. It is sent again,
since a message twice is better than none (RFC 5321 §4.5.5, RFC 1047).

Fixed: the factory is a `twisted.mail.smtp.ESMTPSenderFactory`. Its protocol is not used: it stuffs dots by chunk, accepts
octets behind the reply to STARTTLS, and cannot say what became of a message whose connection was lost.

Carries: RFC 5321 §4.5.3.2 (time limits), §4.5.4, §5.1 · RFC 7505 · RFC 3207 and RFC 7435 (TLS when there is any) · RFC 7672
(DANE) · RFC 8461 (MTA-STS) · RFC 8689 (REQUIRETLS) · RFC 8314 §3 (port 465) · RFC 4954 · RFC 3464 §2.3 (what a disposition must
tell) · RFC 2033 (LMTP, as the client) · RFC 8305 §5.
"""
