"""
REPORTS: what other domains are told of how things went with them.

For: counting what became of TLS with their hosts, and the daily reports of it to those that ask for them.

Knows: `mail`, Deferreds, SQLite and files, and through protocols of its own the DNS, HTTPS, the way into the spool, threads and
a clock. Chance is handed in, and so is the folder, in which each worker has a small file. Counts are worth less than mail: they
are bounded, what was counted in the last minute before a crash is lost, and a disk that fails loses reports and nothing else.

Carries: RFC 8460.
"""
