"""
THE OPERATOR'S SIDE: the command `mailstack`.

For: making an installation (configuration, certificates, folders, directory), checking it, saying who exists: domains,
accounts, aliases; and seeing to the mail that waits. Every message says what happened, why, and what to do; every result can be
had as JSON.

Knows: the settings and the directory; of the rooms below only what `check` and `init` need, imported when they need it, since a
command should answer at once. A change of the directory tells a running server itself; of its queue the server is asked, since
the spool has one connection and that is the server's:

    queue, queue_*     the command                    control_client     its end of the control socket
    control            the language between them      control_server     the end of the server
    desk               one spool, as it is asked      desks              several, as one

Carries: RFC 5280, RFC 9525 (the certificates that `init` makes).
"""
