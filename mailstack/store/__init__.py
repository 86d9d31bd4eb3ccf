"""
MAILDIRS: the mail of the users on disk.

For: durable delivery into a maildir, the names of its files, and the maildrop: the locked, numbered view of a maildir that
POP3 gives.

Knows: the file system, through an object like `os` that tests can replace. Knows no protocol, no reactor and no accounts: it
is given folders. Its functions block and are called in a thread; those that do not touch the disk say so. What a maildrop reads
out of the kernel's memory (`cached`) never waits, and is read where it is asked for.

Promises: a delivery is on stable storage before it is reported, and a repeated one changes nothing. Only a maildrop's
`commit` removes a user's mail. A file is never changed once it is in `new` or `cur`.

Carries: the maildir format of https://cr.yp.to/proto/maildir.html with the `,S=` and `,W=` fields of Maildir++ · RFC 1939
§3, §7 (exclusive maildrop, UIDL, sizes with CRLF).

Why messages stay in `new`: retrieving by POP3 says nothing about having been read, and an IMAP server on the same maildir
moves files to `cur` itself when it first shows them. So we never rename a message, and a session costs no writes but its
deletions.
"""
