"""
ACCEPTED MAIL: durable entries, their schedule, the ledger of their recipients, and recovery.

For: keeping a message from the moment at which the peer gets its 250 until every recipient has it, or its sender has been told.
An entry is a message in the spool. It comes in by the intake, goes from memory straight to its attempts by the runner, and what
became of each recipient goes into the ledger. The disk is read again only after a restart and for retries. A message for
accounts only is delivered before its 250 and is never an entry, unless that does not work at once (`straight`).

Promises:
- `Draft.commit` returns None only when content and row are on stable storage, or all recipients have the message in their
  maildirs, there. Everything that fails before gives a 4yz reply.
- A recipient is finished only by the ledger, in one transaction; a failed one only together with the DSN that tells of it.
- Whatever is killed at whatever moment, an entry is attempted again (`may_repeat`) until the ledger says that it is finished.
- Mail for one destination does not wait because of another that is slow or down (`lanes`, `concurrency`).
- Nothing grows with what waits: the schedule is an index on disk, and what is in memory has a limit in number and in octets.

What the operator wants to see or to be done goes through the queue: in parts, between those of the mail, and never behind the
back of an attempt.

Knows: `mail`, Deferreds, SQLite and files. Couriers, the router, clock, chance and the way into a thread are handed in.

Layout of the folder, 0700, files 0600:

    lock                 held by flock while a process has the spool
    spool.db (-wal, -shm) rows of entries and recipients, and contents up to INLINE_OCTETS
    reserve              room that is given up when the disk is full, so that what makes room can be done
    content/ENTRY        contents above that, CRLF octets as received
    shard-K/             the same for worker K, from 1 (`shards`)

Why one connection: SQLite before 3.51.3 can corrupt a WAL file when two connections write or checkpoint at once. There is
exactly one, in one thread; nobody else ever opens the file for writing, and the operator asks the daemon.

Why leases are not on disk: the flock makes this process the only one that works on the spool. A lease that a dead process
left on disk would only delay the mail; one in memory dies with its holder.

Carries: RFC 5321 §4.5.4.1 (retries), §6.1 (responsibility after 250) · RFC 3464 (DSN) · RFC 3463 (status).
"""
