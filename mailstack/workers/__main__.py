"""
The program of a worker process: `python -m mailstack.workers NUMBER DESCRIPTOR`, as the parent starts it, and nobody else.

It chooses the reactor and leaves the rest to `child`, which cannot: what that imports takes whatever reactor there is.
"""

import sys

from mailstack.net.lean_reactor import install

if __name__ == "__main__":
    install()
    from mailstack.workers.child import main

    sys.exit(main(sys.argv[1:]))
