"""
mailstack: a complete mail system on Twisted.

The rooms are the life of a message: `mail` holds the nouns, `wire` the languages, and
`receive → spool → route → relay | deliver → store → retrieve` is the road. `directory` knows who exists, `policy` decides,
`reports` tells other domains how things went with them, `net` touches the network and threads, `console` is the operator's
side. `compose` builds the house, `serving` opens it, and `system` runs it as one process, `workers` as several. Each room's
docstring is its charter.
"""

__version__ = "0.1.0"
