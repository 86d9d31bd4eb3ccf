"""
HARNESS: a running mailstack and the real programs around it, each in a temporary folder, on loopback and high ports.

`house` is our server as its operator runs it (`mailstack init`, `twistd`); `postfix`, `dovecot` and `names` are its peers;
`messages` are messages as people send them; `programs` says what is installed and runs it.
"""
