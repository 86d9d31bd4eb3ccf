"""
THE NETWORK AND THE MACHINE: what the rooms need of them, made once.

For: the resolver, HTTPS as a client, questions about tokens, certificates, listeners, which addresses are our own, connections
through proxies, batches and threads, counts that several processes share, a folder that keeps what can be had again, the
reactor of the workers and how late it is, and the one place where coroutines are started.
Knows: Twisted, sockets, TLS and threads; nothing of mail but its values.

Carries: RFC 1035, RFC 6891 (resolver) · RFC 8446, RFC 7301 (TLS and ALPN) · RFC 7662 (tokens).
"""
