"""
THE COMPOSITION: builds the house from the settings.

For: making the parts of one process, each with exactly the objects that it may use; and replacing, at a reload, those that a
reload may change.

Knows: every room, and the settings, which no room below does: what it hands on are parts and single values. Only those know it
that run the house: `serving`, `system` and `workers`. Nothing is opened, bound or started before they say so.

Promises: settings from which no house can be built are refused, with the key that is at fault, before anything is opened; at a
reload they change nothing.

    composition   all parts in their order, from the start to the end

    factories     what makes the sessions of each listener
    counting      how many sessions there are, and logins that failed
    certificates  what listeners show of themselves
    logins        who has an account, and how users show it
    judge         the policies, and the house that they may ask
    mailboxes     the maildirs of our users
    spools        where accepted mail waits
    outgoing      how it leaves, to our maildirs and to other hosts
    reporting     what other domains are told of TLS with their hosts

    routing       for whom mail is meant, and from whom it goes on
    relaying      how mail goes to other hosts, in values
    limits        how much of everything
    peers         who may do more than others, by where he comes from
    outside       the DNS and HTTPS
    secrets       what is read with the rights of who starts the server
    machine       reactor, clocks and threads
    chance        what nobody may guess
    place         which one a process is of those that serve
    refused       what keeps the house from being built

A part knows those further down that it needs, and but for the factories none of its own kind: the composition puts them
together.
"""
