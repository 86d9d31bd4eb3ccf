"""
The reports of TLS: counted all day, told the day after.

Every worker counts; the first one tells. It does so some time after midnight UTC, by chance, so that not all the world does at
the same moment, and asks each domain of which anything was counted whether it wants to be told. What cannot be told now, since
the DNS or the place does not answer, is tried again until the day is over. Mail about it goes through our own spool.

Told is remembered once the spool or the page has taken a report: after a crash in between it is told twice.

Source:  RFC 8460 §4.1 (a day of UTC; a random delay), §5.3 (by mail, whatever is wrong with TLS), §5.4 (by HTTPS).
"""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from mailstack import events
from mailstack.mail.address import Address
from mailstack.mail.answers import Answer, Failed, Found
from mailstack.mail.pages import NoPage, Page
from mailstack.mail.tls_reports import (
    MEDIA_TYPE,
    Line,
    Place,
    Post,
    ReportSource,
    file_name,
    parse_record,
    report_document,
    report_message,
)
from mailstack.mail.tls_results import AppliedPolicy, TLSFailure
from mailstack.reports.counts import DAY_SECONDS, WHY_CHARACTERS, Counted, CountsFile, day_of, domains_of, lines_of

FLUSH_SECONDS: Final = 60.0
LONGEST_DELAY_SECONDS: Final = 14_400.0
RETRY_SECONDS: Final = 3_600.0
TOLD_AT_ONCE: Final = 20
"""So many domains; some of their places are slow."""

T = TypeVar("T")
HandOver = Callable[[str, int | None, str, str, bytes], Awaitable[Page | NoPage]]
"""Hands octets over by HTTPS: to a host, at a port, to a path, of a media type."""


class Clock(Protocol):
    """Time, and calls in the future: a part of IReactorTime."""

    def seconds(self) -> float:
        """Seconds since 1970."""

    def callLater(self, delay: float, function: Callable[..., Any], /, *args: Any) -> IDelayedCall:
        """Call after so many seconds."""


class Texts(Protocol):
    """Asks the DNS for texts."""

    async def txt(self, name: str) -> Answer[bytes]:
        """Return the texts of a name, the strings of each joined."""


class RunInThread(Protocol):
    """Calls a function in a thread."""

    def __call__(self, function: Callable[..., T], *args: Any) -> Awaitable[T]:
        """Call it, and return what it returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """
    What reporting is given.

    Shape:  `submit(from, to, content)` puts a message into the spool, and says whether it did; `post` is as of
            `net.https.HTTPS`; `chance` is a random number, 0 <= x < 1; `make_id` makes a name that no other report has.
    """

    clock: Clock
    start: Callable[[Coroutine[Any, Any, Any], str], Any]
    run_in_thread: RunInThread
    texts: Texts
    submit: Callable[[Address, Address, bytes], Awaitable[bool]]
    post: HandOver
    chance: Callable[[], float]
    make_id: Callable[[], str]


def _write(lines: Sequence[Line], source: ReportSource, report_id: str, day: str) -> tuple[bytes, int]:
    """Write a report, and return it compressed, with its length; blocks, if it is long."""
    document = report_document(lines, source, report_id, day)
    return gzip.compress(document, mtime=0), len(document)


class TLSReports:
    """Counts for one worker, and tells for all of them if it is the one that does; a witness of the relay."""

    def __init__(self, folder: Path, worker: int, source: ReportSource, means: Means) -> None:
        self._folder = folder
        self._file = CountsFile(folder / f"{worker}.db")
        self._source = source
        self._means = means
        self._tells = worker == 0
        self._counted = Counted()
        self._timer: IDelayedCall | None = None
        self._delay = means.chance() * LONGEST_DELAY_SECONDS
        self._told_day = ""
        self._next_round_at = 0.0
        self._is_telling = False
        self._is_closed = False

    def session(
        self,
        applied: AppliedPolicy,
        host: str,
        address: str = "",
        own_address: str = "",
        failure: TLSFailure | None = None,
        why: str = "",
    ) -> None:
        """Count a session that was begun, or a host that could not be used."""
        if not applied.domain:
            return
        if failure is None:
            line = Line(applied, None, 0)
        else:
            printable = "".join(c if c.isprintable() else "?" for c in why[:WHY_CHARACTERS])
            line = Line(applied, failure, 0, host, address, own_address, printable)
        self._counted.add(self._means.clock.seconds(), line)

    def change(self, texts: Texts, post: HandOver) -> None:
        """Ask other name servers, and hand over another way, from now on."""
        self._means = replace(self._means, texts=texts, post=post)

    def start(self) -> None:
        """Begin to keep what is counted, and to tell."""
        self._timer = self._means.clock.callLater(FLUSH_SECONDS, self._tick)

    async def stop(self) -> None:
        """Keep what is counted, and end."""
        self._is_closed = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        await self._flush()

    def _tick(self) -> None:
        self._means.start(self._do_round(), "counting TLS sessions")

    async def _do_round(self) -> None:
        try:
            await self._flush()
        finally:
            if not self._is_closed:
                self._timer = self._means.clock.callLater(FLUSH_SECONDS, self._tick)
        if self._tells and not (self._is_telling or self._is_closed):
            self._is_telling = True  # that takes as long as strangers make it take; what is counted does not wait for them
            try:
                await self._tell()
            finally:
                self._is_telling = False

    async def _flush(self) -> None:
        if counts := self._counted.take():
            await self._guarded(self._file.add, counts)

    async def _tell(self) -> None:
        """Tell about yesterday, if its time has come."""
        now = self._means.clock.seconds()
        day = day_of(now - DAY_SECONDS)
        if day == self._told_day or now % DAY_SECONDS < self._delay or now < self._next_round_at:
            return
        self._next_round_at = now + RETRY_SECONDS
        domains, is_done = await self._guarded(domains_of, self._folder, day) or [], True
        for start in range(0, len(domains), TOLD_AT_ONCE):
            if self._is_closed or day_of(self._means.clock.seconds() - DAY_SECONDS) != day:
                return
            telling = [Deferred.fromCoroutine(self._settle(day, each)) for each in domains[start : start + TOLD_AT_ONCE]]
            for has_ended, is_settled in await DeferredList(telling, consumeErrors=True):
                is_done = is_done and has_ended and is_settled
        if is_done:
            self._told_day = day

    async def _settle(self, day: str, domain: str) -> bool:
        """Tell one domain, unless it was told; say whether nothing is left to be done."""
        try:
            is_settled = await self._guarded(self._file.is_settled, day, domain)
            if not is_settled and (is_settled := await self._tell_domain(day, domain)):
                await self._guarded(self._file.settle, day, domain)
            return bool(is_settled)
        except CancelledError:
            raise
        except Exception:  # a bulkhead: the others are told
            events.unexpected(f"reporting TLS sessions to {domain}", Failure())
            return False

    async def _tell_domain(self, day: str, domain: str) -> bool:
        """Tell one domain, if it wants to be told; say whether nothing is left to be done."""
        answer = await self._means.texts.txt(f"_smtp._tls.{domain}")
        if isinstance(answer, Failed):
            return False
        places = parse_record(answer.records) if isinstance(answer, Found) else ()
        if not places:
            return True
        lines = await self._guarded(lines_of, self._folder, day, domain)
        if not lines:
            return lines is not None
        report_id = f"{self._means.make_id()}@{self._source.domain}"
        written = await self._guarded(_write, lines, self._source, report_id, day)
        if written is None:
            return False
        zipped, octets = written
        # RFC 8460 §3: each place gets it; one that has it is enough to be done.
        taken = [place for place in places if await self._hand_over(place, zipped, domain, report_id)]
        for place in taken:
            events.tls_report_sent(domain, str(place) if isinstance(place, Address) else place.host, octets)
        return bool(taken)

    async def _hand_over(self, place: Place, zipped: bytes, domain: str, report_id: str) -> bool:
        if isinstance(place, Post):
            page = await self._means.post(place.host, place.port, place.path, MEDIA_TYPE, zipped)
            return isinstance(page, Page) and 200 <= page.status < 300
        now = self._means.clock.seconds()
        begin = int(now // DAY_SECONDS - 1) * DAY_SECONDS
        file = file_name(self._source, domain, begin, begin + DAY_SECONDS - 1)
        content = report_message(zipped, self._source, domain, place, report_id, formatdate(now), file)
        return await self._means.submit(self._source.contact, place, content)

    async def _guarded(self, function: Callable[..., T], *args: Any) -> T | None:
        """Call in a thread; what fails there is logged and costs a report."""
        try:
            return await self._means.run_in_thread(function, *args)
        except CancelledError:
            raise
        except Exception:  # a bulkhead: counts are worth less than mail
            events.unexpected("counting TLS sessions", Failure())
            return None
