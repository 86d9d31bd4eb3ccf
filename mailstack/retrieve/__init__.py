"""
POP3: users fetch their mail.

For: the Protocol and the factory around `wire.pop3_server`, logging in by a cred portal, the marks of a session on its
maildrop.

Knows: Twisted, the wire, and two interfaces that an avatar may have: our `IMaildrop`, and
`twisted.mail.interfaces.IMailboxPOP3`. Of store and directory it knows nothing: a portal gives it an avatar, or says why
not.

Promises: messages are removed after QUIT and never otherwise, and its +OK comes after they are removed for certain. A
session that ends in another way (connection lost, timeout, shutdown, error) removes nothing. Memory of a session is bounded,
whatever the client sends or does not read.

Carries: RFC 1939 · RFC 2449 (CAPA, response codes) · RFC 2595 §4 (STLS) · RFC 3206 (AUTH, SYS) · RFC 5034 (AUTH) · RFC 4422,
appendix A (EXTERNAL) · RFC 7628 (OAUTHBEARER) · RFC 7677 (SCRAM-SHA-256) · RFC 8314 (TLS).

Deviates: RFC 1939 §4, since APOP needs passwords that can be read, and MD5: it is not offered.
"""
