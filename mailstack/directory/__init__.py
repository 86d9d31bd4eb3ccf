"""
WHO EXISTS: domains, accounts, aliases and credentials.

For: saying whether a domain is ours, what an address leads to, whom an address belongs to, and whether a password is right;
and, for the operator's command, changing all that.

Knows: one SQLite file and its records; mail's values; of Twisted only cred and Deferred. Threads, the clock and the key of the
password cache are arguments. The daemon only reads, but for bringing a file of an earlier format to the present one; the
operator's command only writes; no signal passes between them: every lookup looks at the file's change counter first, so a
change is in force with the next command of any session.

Carries: RFC 5321 §2.3.11 (local-parts, which we compare without case) · RFC 5233 (subaddresses) · RFC 9106 (Argon2) · RFC 5803
(SCRAM's keys).
"""
