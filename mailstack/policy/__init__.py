"""
DECISIONS about sessions, transactions and content: what may come in.

For: the chain that asks the policies in their order, and our own policies: who may relay, who may send as whom, who may be
named as the author, and what comes to the addresses under which we forward.
Knows: values and the policy door; never sockets, the spool or the directory itself (it asks through `doors.House`).
A policy that raises or hangs defers the mail: unknown means temporary.

Carries: RFC 5321 §3.6, §7.1 (relaying) · RFC 6409 §6.1 (submission rights) · RFC 5322 §3.6.2 (authors).
"""
