"""
THE WORKERS: a server that is several processes.

For: using all cores of a machine. The process that twistd runs is the parent. It serves nobody: it binds the sockets, reads
what only root may read, starts the workers and replaces those that die. Each worker is a whole server (`serving`) with a spool
of its own on the same sockets.

Knows: processes, the line between parent and worker, and what all of them share: sockets, counts of sessions, the log. Of mail
nothing but what `compose`, `serving` and `system` have in store.

What holds across workers, and by what: a maildrop has one session (flock); an entry is delivered once (its name has the shard
of its spool in it); a change of an account counts at once (each worker watches the file); the limits of connections and of
wrong passwords (counts in shared memory, `net.shared_counts` and `net.tallies`). What each worker has a part of: the limits of
the relay. What each has for itself: the memory of passwords that were right, DNS answers.

    parent      the service of twistd: sockets, secrets, reload, stop
    seat        the place of one worker: who has it, and when the next comes
    process     one worker process, as the parent has it
    __main__    the program of a worker process
    child       one worker process, as it has itself
    desk        what the operator asks, passed on to a worker
    errand      what a worker is told
    line        how
    log_lines   how a worker writes the log

A worker is a new Python process, not a fork: two processes must not share what the reactor has opened.
"""
