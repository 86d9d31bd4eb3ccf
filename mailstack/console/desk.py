"""
The desk of one spool: what comes over the control socket, asked of its queue or done with it, and told as plain values.

Everything in a request comes from outside and is read strictly. Times are in seconds since 1970.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Final, Protocol

from mailstack.console.control import ORDINALS, TARGETS, Answer, ControlError, Request
from mailstack.console.headers import lines_of, message_id_of, subject_of
from mailstack.console.sums import GROUPS, keep_largest, nothing
from mailstack.console.telling import (
    entry_fields,
    origin_fields,
    recipient_fields,
    recipient_of,
    request_fields,
    tried_fields,
    why_fields,
)
from mailstack.mail.address import AddressError, parse_domain
from mailstack.mail.headers import header_section
from mailstack.spool.entry import ALL_DOMAINS
from mailstack.spool.failures import StorageError
from mailstack.spool.hands import Act, Order, concerns
from mailstack.spool.identifiers import format_number
from mailstack.spool.queries import Found, FoundPage, Shown
from mailstack.spool.queue import Obeyed, QueueError, Target, will_be_held
from mailstack.spool.reading import Part, ReadingError
from mailstack.spool.selection import CORRUPT, HELD, Row, Selection, SelectionError, parse_entry_name, parse_selection
from mailstack.spool.sums import By, SumsPage

LISTED_RECIPIENTS: Final = 20
"""So many of one entry are told in a list; who wants more asks for those of that entry."""
MORE_RECIPIENTS: Final = 500
"""So many at a time of one entry."""
LISTED_ENTRIES: Final = 100
TEXT_CHARACTERS: Final = 400
_FULL: Final = (
    "the disk of the spool is full, so that nothing can be changed. Make some room on it, by other means, and repeat this"
)
BY_CHARACTERS: Final = 80


class Queue(Protocol):
    """The queue of a spool (`spool.queue`)."""

    async def find(self, selection: Selection, *, after: int, limit: int) -> FoundPage:
        """Return the next entries that are selected."""
        ...

    async def show(self, number: int, *, after: int = -1) -> Shown | None:
        """Return what is known of an entry."""
        ...

    async def sum_up(self, selection: Selection, by: By, *, after: int) -> SumsPage:
        """Return sums over the next entries that are selected."""
        ...

    async def span(self) -> tuple[int, int] | None:
        """Return the first and the last number."""
        ...

    async def read(self, number: int, *, after: int, what: str, by: str) -> Part | None:
        """Return octets of the content of an entry."""
        ...

    async def paused(self) -> dict[str, float]:
        """Return the domains that are paused, and since when."""
        ...

    async def obey(self, order: Order, targets: Sequence[Target]) -> Obeyed:
        """Do what is ordered."""
        ...

    async def pause(self, domain: str, by: str = "") -> bool:
        """Attempt nothing more of a domain."""
        ...

    async def resume(self, domain: str, by: str = "") -> bool:
        """Attempt what waits for a domain again."""
        ...

    def place_of(self, number: int, lane: str, ordinal: int) -> str:
        """Say where a recipient is: in an "attempt", in "memory", or "" on disk."""
        ...

    def orders_for(self, number: int, lane: str, ordinal: int) -> Sequence[Act]:
        """Return what is to be done with a recipient when the attempt that runs has ended."""
        ...

    @property
    def attempts(self) -> int:
        """How many attempts run."""
        ...


class QueueDesk:
    """
    Answers for one queue.

    Shape:   `check_via(text)` returns a way by which mail can go, in the form in which it is kept, or raises a ValueError.
    """

    def __init__(self, queue: Queue, *, seconds: Callable[[], float], check_via: Callable[[str], str]) -> None:
        self._queue = queue
        self._seconds = seconds
        self._check_via = check_via

    async def answer(self, request: Request) -> Answer:
        """
        Answer a request.

        Raises:  ControlError.
        """
        try:
            match request.get("ask"):
                case "find":
                    return await self._find(request)
                case "show":
                    return await self._show(request)
                case "headers":
                    return await self._headers(request)
                case "content":
                    return await self._content(request)
                case "act":
                    return await self._act(request)
                case "pause":
                    return await self._pause(request)
                case "resume":
                    return await self._resume(request)
                case "stats":
                    return await self._stats(request)
                case "span":
                    span = await self._queue.span()
                    return {"first": span and format_number(span[0]), "last": span and format_number(span[1])}
                case other:
                    raise ControlError(f"nobody can be asked for {str(other)[:40]!r}")
        except (SelectionError, QueueError, ReadingError) as error:
            raise ControlError(str(error)) from None
        except StorageError as error:
            if not error.is_full:
                raise
            raise ControlError(_FULL) from error

    async def _find(self, request: Request) -> Answer:
        limit = request.get("limit", LISTED_ENTRIES)
        if not _is_int(limit) or not 1 <= limit <= LISTED_ENTRIES:
            raise ControlError(f"limit is a number from 1 to {LISTED_ENTRIES}")
        behind = request.get("behind")
        if behind is not None and not _is_int(behind):
            raise ControlError("behind is the number of a recipient")
        selection = parse_selection(request.get("select", {}))
        if behind is not None and len(selection.numbers) != 1:
            raise ControlError("behind is for the recipients of one message")
        order = self._order(request) if "act" in request else None
        page = await self._queue.find(selection, after=_after(request), limit=limit)
        found = page.found if order is None else self._concerned(order, page.found)
        paused = await self._queue.paused() if found else {}
        return {
            "entries": [self._listed(each, behind, paused) for each in found],
            "to": None if page.to is None else format_number(page.to),
        }

    def _concerned(self, order: Order, found: Sequence[Found]) -> list[Found]:
        """Return what an order is about, of what was found."""
        concerned = (replace(each, rows=[row for row in each.rows if self._concerns(order, each, row)]) for each in found)
        return [each for each in concerned if each.rows]

    def _concerns(self, order: Order, found: Found, row: Row) -> bool:
        if order.act is Act.RELEASE and row.shown(is_corrupt=found.is_corrupt) not in (HELD, CORRUPT):
            return will_be_held(self._orders(found, row))
        return concerns(order, row, recipient_of(found, row))

    def _listed(self, found: Found, behind: int | None, paused: dict[str, float]) -> dict[str, Any]:
        """Tell of an entry, and of its first recipients; or of those alone that come behind one."""
        if behind is None:
            rows, selected = found.rows[:LISTED_RECIPIENTS], [row.ordinal for row in found.rows]
        else:
            rows, selected = [row for row in found.rows if row.ordinal > behind][:MORE_RECIPIENTS], []
        return {
            **entry_fields(found),
            "recipients": [self._recipient(found, row, paused) for row in rows],
            "selected": selected,
        }

    async def _show(self, request: Request) -> Answer:
        after = request.get("after", -1)
        if not _is_int(after):
            raise ControlError("after is the number of a recipient")
        shown = await self._queue.show(parse_entry_name(request.get("id")), after=after)
        if shown is None:
            return {"entry": None, "recipients": [], "to": None}
        paused = await self._queue.paused()
        return {
            "entry": {**entry_fields(shown.found), **origin_fields(shown.found.envelope), **await self._titles(request, after)},
            "recipients": [
                {
                    **self._recipient(shown.found, row, paused),
                    **request_fields(shown.found, row),
                    **why_fields(shown.found, row, place=self._place(shown.found, row), paused=paused, now=self._seconds()),
                    "tried": [tried_fields(each) for each in shown.traces.get(row.ordinal, ())],
                }
                for row in shown.found.rows
            ],
            "to": shown.to,
        }

    async def _titles(self, request: Request, after: int) -> dict[str, Any]:
        """Tell what the message calls itself, once: with the first of its recipients."""
        section = None
        with suppress(ReadingError):  # all else is told all the same
            if after < 0:
                section = await self._section(request, "subject")
        if section is None:
            return {"subject": None, "message_id": None}
        return {"subject": subject_of(section), "message_id": message_id_of(section)}

    async def _section(self, request: Request, what: str) -> bytes | None:
        number = parse_entry_name(request.get("id"))
        part = await self._queue.read(number, after=0, what=what, by=_by(request))
        return None if part is None else header_section(part.octets or b"")

    async def _headers(self, request: Request) -> Answer:
        section = await self._section(request, "headers")
        return {"headers": None if section is None else list(lines_of(section))}

    async def _content(self, request: Request) -> Answer:
        after = request.get("after", 0)
        if not _is_int(after) or not 0 <= after < 1 << 50:
            raise ControlError("after is a number of octets")
        part = await self._queue.read(parse_entry_name(request.get("id")), after=after, what="content", by=_by(request))
        if part is None:
            return {"octets": None, "part": "", "to": None}
        octets = part.octets or b""
        return {
            "octets": part.in_all,
            "part": b64encode(octets).decode("ascii"),
            "to": after + len(octets) if octets else None,
        }

    def _recipient(self, found: Found, row: Row, paused: Container[str]) -> dict[str, Any]:
        orders = self._orders(found, row)
        return recipient_fields(found, row, place=self._place(found, row), orders=orders, paused=paused)

    def _orders(self, found: Found, row: Row) -> Sequence[Act]:
        return self._queue.orders_for(found.number, row.lane, row.ordinal)

    def _place(self, found: Found, row: Row) -> str:
        return self._queue.place_of(found.number, row.lane, row.ordinal)

    async def _act(self, request: Request) -> Answer:
        order = self._order(request)
        obeyed = await self._queue.obey(order, _targets(request.get("targets")))
        return {
            "entries": obeyed.entries,
            "recipients": obeyed.recipients,
            "under_way": obeyed.under_way,
            "later": obeyed.later,
            "untold": obeyed.untold,
            "senderless": obeyed.senderless,
            "paused": obeyed.paused,
            "refused": {format_number(number): why for number, why in obeyed.refused.items()},
        }

    def _order(self, request: Request) -> Order:
        try:
            act = Act(request.get("act"))
        except ValueError:
            raise ControlError(f"an act is one of {', '.join(each.value for each in Act)}") from None
        text = request.get("text", "")
        if not isinstance(text, str) or len(text) > TEXT_CHARACTERS or not text.isprintable():
            raise ControlError(f"text is one printable line of at most {TEXT_CHARACTERS} characters")
        if act is Act.BOUNCE and not text:
            raise ControlError("the sender of what is bounced must be told why")
        if act is Act.REROUTE and text:
            try:
                text = self._check_via(text)
            except ValueError as error:
                raise ControlError(str(error)) from None
        return Order(act=act, text=text, by=_by(request), is_named=request.get("named") is True)

    async def _pause(self, request: Request) -> Answer:
        return {"changed": await self._queue.pause(_domain(request), _by(request))}

    async def _resume(self, request: Request) -> Answer:
        is_new = await self._queue.resume(_domain(request), _by(request))
        return {"changed": is_new, "is_all_paused": ALL_DOMAINS in await self._queue.paused()}

    async def _stats(self, request: Request) -> Answer:
        selection = parse_selection(request.get("select", {}))
        page = await self._queue.sum_up(selection, _by_what(request), after=_after(request))
        groups, rest = {key: asdict(each) for key, each in page.groups.items()}, nothing()
        keep_largest(groups, rest, GROUPS)
        return {
            "groups": groups,
            "rest": rest,
            "entries": page.entries,
            "octets": page.octets,
            "corrupt": page.corrupt,
            "attempts": self._queue.attempts,
            "paused": await self._queue.paused(),
            "to": None if page.to is None else format_number(page.to),
        }


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _after(request: Request) -> int:
    after = request.get("after") or ""
    return parse_entry_name(after) if after else 0


def _by_what(request: Request) -> By:
    try:
        return By(request.get("per") or By.DOMAIN)
    except ValueError:
        raise ControlError(f"sums are by {', '.join(each.value for each in By)}") from None


def _by(request: Request) -> str:
    return str(request.get("by") or "somebody")[:BY_CHARACTERS]


def _domain(request: Request) -> str:
    domain = request.get("domain")
    if not isinstance(domain, str):
        raise ControlError("domain is a name")
    if domain == ALL_DOMAINS:
        return domain
    try:
        return parse_domain(domain)
    except AddressError as error:
        raise ControlError(f"{domain[:80]!r}: {error}") from None


def _targets(told: object) -> list[Target]:
    if not isinstance(told, list) or len(told) > TARGETS:
        raise ControlError(f"targets are a list of at most {TARGETS}")
    targets: list[Target] = []
    for each in told:
        if not (isinstance(each, list) and len(each) == 2 and isinstance(each[1], list) and all(map(_is_int, each[1]))):
            raise ControlError("a target is the name of an entry and a list of its recipients")
        targets.append((parse_entry_name(each[0]), tuple(each[1])))
    if sum(len(ordinals) for _, ordinals in targets) > ORDINALS:
        raise ControlError(f"the targets have more than {ORDINALS} recipients")
    return targets
