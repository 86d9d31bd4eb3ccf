"""
WHOM AND WHERE: from an address to what is to be done with the mail for it.

For: expanding an address into recipients (accounts here, addresses elsewhere), the rules of where the mail for another domain
goes, or for one of ours if the operator says so, of what is asked of TLS with its hosts, and the addresses under which what an
alias leads abroad goes on and comes back.

Knows: the values of `mail`, and a directory that it asks through a protocol of its own. Does no input or output itself, so that
every rule can be tested as a table.

Carries: RFC 5321 §3.9.1 (aliases), §4.5.1 (postmaster), §5.1 (MX), §6.2, §6.3 · RFC 5233 (subaddresses) · RFC 7505 (null MX) ·
RFC 7672 §2 (DANE) · RFC 8461 §4, §5 (MTA-STS).
"""
