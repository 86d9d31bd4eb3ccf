"""
The directory as the server asks it: answers from memory, and sees every change of the file with the next question.

A question first compares the file's stamp with that of the snapshot in memory, unless that was done less than FRESH_SECONDS
ago: one command of a peer may ask several questions. When it differs, the file is read again in a thread, once for all who ask
meanwhile, and the question is answered from the new snapshot. No lock and no signal is involved.

When the file cannot be read (busy, damaged, moved away), the last snapshot serves for STALE_SECONDS after the first failure,
which is longer than any change by the operator's command takes; after that every question raises DirectoryUnavailable, and
whoever asked answers "temporary". An old truth is not served for longer: it would let in whom the operator has just locked out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, maybeDeferred

from mailstack.directory.database import Stamp, Watch
from mailstack.directory.passwords import RunInThread, Verifier, decoy_keys
from mailstack.directory.records import AccountRecord, DirectoryError, DirectoryUnavailable, account_name
from mailstack.directory.snapshot import Snapshot, read_snapshot
from mailstack.mail.address import Address
from mailstack.mail.envelope import Account
from mailstack.mail.scram import ScramKeys, ScramProof, parse_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from twisted.python.failure import Failure

STALE_SECONDS: Final = 10.0
FRESH_SECONDS: Final = 0.001
RETRY_SECONDS: Final = 1.0
_READS_PER_QUESTION: Final = 2


class Directory:
    """
    Who exists, now.

    Shape:  `run_in_thread(function, *arguments)` calls it in a thread; `seconds` is a monotonic clock. All methods are called
            in the reactor's thread.
    Raises: DirectoryUnavailable from every question: answer "temporary".
    """

    def __init__(
        self,
        path: Path,
        run_in_thread: RunInThread,
        *,
        verifier: Verifier,
        seconds: Callable[[], float],
        subaddress_delimiter: str = "+",
    ) -> None:
        self._path = path
        self._run_in_thread = run_in_thread
        self._verifier = verifier
        self._seconds = seconds
        self._delimiter = subaddress_delimiter
        self._watch = Watch(path)  # while a read is under way it belongs to the thread
        self._snapshot: Snapshot | None = None
        self._stamp: Stamp | None = None
        self._fresh_until = -1.0
        self._waiting: list[Deferred[None]] | None = None
        self._failed_since: float | None = None
        self._failed_last = 0.0
        self._failure = ""

    def load(self) -> None:
        """
        Read the file at once, before the first question; blocks.

        Raises:  DirectoryError: it cannot be read; the message says what to do.
        """
        self._have_read(read_snapshot(self._path, self._watch))

    async def is_local_domain(self, domain: str) -> bool:
        """Say whether mail for the domain (in lower case, as in an Address) is delivered here."""
        return domain in (await self._current()).domains

    async def resolve(self, address: Address) -> Account | tuple[Address, ...] | None:
        """Return the account of exactly this address (case does not count), or the targets of exactly this alias, or None."""
        return (await self._current()).resolve(address)

    async def has_account(self, name: str) -> bool:
        """Say whether there is an account of that name, also one that is disabled: it still gets its mail."""
        return name in (await self._current()).accounts

    async def owns(self, account: str, address: Address) -> bool:
        """Say whether the account may send as the address: see `Snapshot.owns`."""
        return (await self._current()).owns(account, address, self._delimiter)

    async def verify(self, username: bytes | str, password: bytes | str) -> str | None:
        """
        Return the name of the account whose name and password these are, or None.

        An account that does not exist, is disabled, or has another password: all take the time of one verification.
        """
        snapshot = await self._current()
        record = snapshot.accounts.get(_name_of(username))
        octets = password.encode("utf-8", "surrogateescape") if isinstance(password, str) else password
        right = await self._verifier.is_right(record.password if record else None, octets)
        return record.name if record and right and record.enabled else None

    async def scram_keys(self, username: bytes) -> ScramKeys:
        """
        Return the keys with which an exchange of SCRAM goes on for a user.

        An account that does not exist or has none, and one that is disabled, get keys that are nobody's: the first two with a
        salt that is always the same for the name, so that asking does not tell who exists.
        """
        snapshot = await self._current()
        name = _name_of(username)
        record = snapshot.accounts.get(name)
        decoy = decoy_keys(snapshot.decoy_secret, name.encode() or username)
        keys = _keys_of(record)
        if record is None or keys is None:
            return decoy
        return keys if record.enabled else replace(decoy, salt=keys.salt, iterations=keys.iterations)

    async def verify_proof(self, proof: ScramProof) -> str | None:
        """Return the name of the account whose password the proof shows, or None; it must act for itself."""
        record = (await self._current()).accounts.get(_name_of(proof.username))
        keys = _keys_of(record)
        if record is None or keys is None or not record.enabled or proof.acts_for_other:
            return None
        return record.name if proof.is_by(keys) else None

    async def find_certified(self, names: Sequence[str], authorization_id: bytes) -> str | None:
        """
        Return the enabled account that a certificate names, or a token, or None.

        Without an authorization identity it must name exactly one; with it, that one among others.
        """
        accounts = (await self._current()).accounts
        named = {_name_of(each) for each in names}
        if authorization_id:
            named &= {_name_of(authorization_id)}
        found = [record.name for name in named if (record := accounts.get(name)) is not None and record.enabled]
        return found[0] if len(found) == 1 else None

    def close(self) -> None:
        """Let go of the file."""
        if self._waiting is None:
            self._watch.close()

    async def _current(self) -> Snapshot:
        # A read that was under way may have begun before the change that this question must see; one that begins later has not.
        for _ in range(_READS_PER_QUESTION):
            if self._waiting is None:
                if self._snapshot is not None and self._is_fresh():
                    self._failed_since = None
                    return self._snapshot
                if self._failed_since is not None and self._seconds() < self._failed_last + RETRY_SECONDS:
                    break
                self._begin_read()
            await self._read_end()
        if self._snapshot is None or self._is_stale():
            raise DirectoryUnavailable(self._failure or f"{self._path} keeps changing")
        return self._snapshot

    def _is_fresh(self) -> bool:
        now = self._seconds()
        if now < self._fresh_until:
            return True
        try:
            is_fresh = self._watch.stamp() == self._stamp
        except OSError:
            return False
        if is_fresh:
            self._fresh_until = now + FRESH_SECONDS
        return is_fresh

    def _is_stale(self) -> bool:
        return self._failed_since is not None and self._seconds() >= self._failed_since + STALE_SECONDS

    def _begin_read(self) -> None:
        self._waiting = []
        reading: Deferred[Any] = maybeDeferred(self._run_in_thread, read_snapshot, self._path, self._watch)
        reading.addCallbacks(self._have_read, self._have_failed)
        reading.addBoth(self._wake)

    async def _read_end(self) -> None:
        if self._waiting is None:  # a thread runner that runs at once has ended already
            return
        # Each waits on a Deferred of its own, so that one who is cancelled does not cancel the others.
        waiter: Deferred[None] = Deferred()
        self._waiting.append(waiter)
        await waiter

    def _have_read(self, read: tuple[Snapshot, Stamp]) -> None:
        self._snapshot, self._stamp = read
        self._failed_since = None

    def _have_failed(self, failure: Failure) -> None:
        now = self._seconds()
        self._failed_since = now if self._failed_since is None else self._failed_since
        self._failed_last = now
        self._failure = failure.getErrorMessage()

    def _wake(self, _: object) -> None:
        waiting, self._waiting = self._waiting or [], None
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)


def _keys_of(record: AccountRecord | None) -> ScramKeys | None:
    return parse_keys(record.scram) if record and record.scram else None


def _name_of(username: bytes | str) -> str:
    """Return the form of a user's name in which accounts are kept, or "" for what can be no account's."""
    try:
        return account_name(username.decode() if isinstance(username, bytes) else username)
    except (UnicodeDecodeError, DirectoryError):
        return ""
