"""
The intake: the way into the spool.

A draft is a message that is coming in. Up to INLINE_OCTETS it is in memory; what is longer goes to a file while it comes,
at most UNWRITTEN_OCTETS of it waiting in memory. Nothing that fails is raised at the one who writes: the failure is kept
until `commit`, which then answers with a 4yz reply.

    state        entered by         left by
    open         begin              commit, abort
    committing   commit             the outcome; not abort, and not the cancelling of the caller
    closed       outcome, abort     -
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.address import Address
from mailstack.mail.envelope import Content, Envelope, Recipient
from mailstack.mail.reply import LOCAL_ERROR, Reply
from mailstack.mail.verdict import Refuse
from mailstack.spool.backoff import Schedule
from mailstack.spool.content import INLINE_OCTETS, ContentFile, ContentFolder, FileContent, MemoryContent
from mailstack.spool.database import Database
from mailstack.spool.entry import Entry, WayOf, lanes_of
from mailstack.spool.failures import refusal
from mailstack.spool.identifiers import Identifiers, format_number
from mailstack.spool.operations import Accept
from mailstack.spool.ports import Start
from mailstack.spool.space import FreeSpace
from mailstack.spool.straight import Straight

UNWRITTEN_OCTETS: Final = 524_288


class Intake:
    """Takes messages in. It can add mail and nothing else."""

    def __init__(
        self,
        *,
        database: Database,
        contents: ContentFolder,
        identifiers: Identifiers,
        space: FreeSpace,
        schedule: Schedule,
        start: Start,
        on_accepted: Callable[[Accept, bool], None],
        way_of: WayOf,
        straight: Straight | None = None,
    ) -> None:
        self.database = database
        self.contents = contents
        self.schedule = schedule
        self.start = start
        self.on_accepted = on_accepted
        self.way_of = way_of
        self.straight = straight
        self._identifiers = identifiers
        self._space = space

    def begin(self, reverse_path: Address | None = None, recipients: Sequence[Recipient] = ()) -> Draft:
        """Begin a message; who already knows from whom it is and for whom may save a copy of a large one."""
        head = self.straight.head(reverse_path, recipients) if self.straight is not None else b""
        return Draft(self, self._identifiers.make(), head)

    def refusal(self, octets: int) -> Reply | None:
        """Return NO_SPACE when a message of that length must not be taken."""
        return self._space.refusal(octets)


class _State(enum.Enum):
    OPEN = "open"
    COMMITTING = "committing"
    CLOSED = "closed"


class Draft:
    """A message that is coming in; `head` stands in front of it while it is in a file that is not in the spool yet."""

    def __init__(self, intake: Intake, number: int, head: bytes = b"") -> None:
        self.entry: Final = format_number(number)
        self._number = number
        self._intake = intake
        self._head = head
        self._state = _State.OPEN
        self._octets = 0
        self._chunks: list[bytes] = []  # all of it, or what the file does not have yet
        self._in_flight: tuple[bytes, ...] = ()  # what the thread is writing just now
        self._unwritten_octets = 0
        self._file: ContentFile | None = None
        self._failure: Exception | None = None
        self._waiting: list[Deferred[None]] = []

    def write(self, octets: bytes) -> Deferred[None] | None:
        """
        Add octets.

        Shape:   None: go on. A Deferred: write no more until it has fired; it never fails.
        """
        if self._state is not _State.OPEN or self._failure or not octets:
            return None
        self._octets += len(octets)
        self._chunks.append(octets)
        if self._octets <= INLINE_OCTETS:
            return None
        if self._file is None:
            self._file = self._intake.contents.create(self.entry)
            if self._head:
                self._chunks.insert(0, self._head)
            self._unwritten_octets = self._octets + len(self._head)
        else:
            self._unwritten_octets += len(octets)
        self._write_on()
        if self._unwritten_octets <= UNWRITTEN_OCTETS:
            return None
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def content(self) -> Content:
        """Return what was written so far; of no use after `abort`."""
        if self._file is None:
            return MemoryContent(b"".join(self._chunks))
        tail = tuple(chunk for chunk in (*self._in_flight, *self._chunks) if chunk is not self._head)
        return FileContent(self._file.path, self._octets, tail, self._head)

    async def commit(self, envelope: Envelope) -> Refuse | None:
        """
        Put the message on stable storage and hand it to the runner.

        Shape:   None: it is there, for every recipient, and is our responsibility (RFC 5321 §6.1). Refuse: nothing of it is.
                 Cancelling the caller changes nothing: the entry goes its way once.
        Raises:  RuntimeError: the draft is not open. ValueError: there are no recipients.
        """
        if self._state is not _State.OPEN:
            raise RuntimeError(f"{self.entry} is {self._state.value}")
        if not envelope.recipients:
            raise ValueError("no recipients")
        self._state = _State.COMMITTING
        outcome: Deferred[Refuse | None] = Deferred()
        self._intake.start(self._finish(envelope, outcome), f"{self.entry}: commit")
        return await outcome

    def abort(self) -> None:
        """Forget the message, unless it is being committed."""
        if self._state is _State.OPEN:
            self._state = _State.CLOSED
            self._chunks.clear()
            self._discard()
            self._go_on()

    async def _finish(self, envelope: Envelope, outcome: Deferred[Refuse | None]) -> None:
        try:
            refused = await self._store(envelope)
        except CancelledError:  # the house is being stopped: the peer must not get a 250, whatever the disk has
            outcome.errback(Failure())
            raise
        except Exception as error:
            events.unexpected(f"{self.entry}: commit", Failure())
            refused = Refuse(LOCAL_ERROR, repr(error))
        finally:
            self._state = _State.CLOSED
        outcome.callback(refused)

    async def _store(self, envelope: Envelope) -> Refuse | None:
        straight = self._intake.straight
        # After a failed commit the next message goes into the database, or what was refused then could still come to light.
        may_try = straight is not None and straight.takes(envelope) and not self._intake.database.has_ghosts
        may_try = may_try and await self._written_out()
        lanes = lanes_of(envelope, self._intake.way_of)  # not before: a domain may be paused while it is written
        was_tried = may_try and not any(lanes)
        if straight is not None and was_tried and await straight.deliver(self._entry(envelope)):
            self._chunks.clear()
            self._discard()
            return None
        if self._file is not None:
            await self._seal(self._file)
        if self._failure is None:
            accept = Accept(self._entry(envelope), lanes)
            try:
                await self._intake.database.do(accept)
            except CancelledError:
                raise
            except Exception as error:
                self._failure = error
            else:
                self._chunks.clear()
                self._intake.on_accepted(accept, was_tried)
                return None
        self._discard()
        return refusal(self._failure)

    def _entry(self, envelope: Envelope) -> Entry:
        file = self._file
        return Entry(
            number=self._number,
            envelope=envelope,
            content=MemoryContent(b"".join(self._chunks)) if file is None else self._in_file(file),
            expires_at=self._intake.schedule.expires_at(envelope),
        )

    def _in_file(self, file: ContentFile) -> FileContent:
        return FileContent(file.path, self._octets, head=self._head)

    async def _written_out(self) -> bool:
        """Have all octets in the file, if there is one, though not on stable storage; say whether they are."""
        try:
            if self._file is not None and (self._chunks or self._in_flight):
                chunks, self._chunks = tuple(self._chunks), []
                await self._file.append(chunks)  # after what is in flight: a file's tasks are done in order
        except CancelledError:
            raise
        except Exception as error:
            self._failure = self._failure or error
        return self._failure is None

    async def _seal(self, file: ContentFile) -> None:
        """Put all octets on stable storage."""
        if await self._written_out():
            try:
                if self._head:
                    await file.behead(len(self._head))
                    self._head = b""
                await file.seal()
            except CancelledError:
                raise
            except Exception as error:
                self._failure = error

    def _write_on(self) -> None:
        """Hand to the thread what gathered since it was last given something."""
        if self._in_flight or not self._chunks or self._file is None:
            return
        self._in_flight, self._chunks = tuple(self._chunks), []
        self._file.append(self._in_flight).addCallbacks(self._written, self._not_written)

    def _written(self, _: None) -> None:
        self._unwritten_octets -= sum(map(len, self._in_flight))
        self._in_flight = ()
        if self._state is _State.OPEN:
            self._write_on()
        if self._unwritten_octets <= UNWRITTEN_OCTETS // 2:
            self._go_on()

    def _not_written(self, failure: Failure) -> None:
        self._failure = self._failure or (failure.value if isinstance(failure.value, Exception) else RuntimeError("write"))
        self._in_flight = ()
        self._chunks.clear()
        self._go_on()

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def _discard(self) -> None:
        if self._file is not None:
            # A file that cannot be removed now is removed by the next start.
            self._file.discard().addErrback(lambda failure: events.unexpected(f"{self.entry}: discard", failure))
