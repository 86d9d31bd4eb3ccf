"""
THE OPERATOR'S SIDE: the command `mailstack`.

For: making an installation (configuration, certificates, folders, directory), checking it, and saying who exists: domains,
accounts, aliases. Every message says what happened, why, and what to do; every result can be had as JSON.

Knows: the settings and the directory; of the rooms below only what `check` and `init` need, imported when they need it, since a
command should answer at once. It never talks to a running server: the directory's file does.

Carries: RFC 5280, RFC 9525 (the certificates that `init` makes).
"""
