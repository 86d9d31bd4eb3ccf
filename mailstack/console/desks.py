"""
Several desks as one: the spools of a process, and the workers of a server.

Each has a part of the queue. All are asked at once, and their answers become one. Entries are in the order of their names,
which is that of time: of a page of each, all up to the end of the shortest is known, and the rest comes with the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from mailstack.console.control import Answer, ControlError, Desk, Request
from mailstack.console.sums import GROUPS, Groups, add, add_groups, keep_largest, nothing

_CHANGE: Final = ("act", "pause", "resume")
_END: Final = False
"""In the place of a desk that has told everything."""


class Desks:
    """Desks that answer together."""

    def __init__(self, desks: Sequence[Desk]) -> None:
        self._desks = desks

    async def answer(self, request: Request) -> Answer:
        """
        Answer as one.

        Raises:  ControlError: one of them cannot.
        """
        merge = _MERGES.get(str(request.get("ask")))
        if merge is None:
            raise ControlError(f"nobody can be asked for {str(request.get('ask'))[:40]!r}")
        if request["ask"] == "stats":
            return await self._stats(request)
        return merge(await self._ask([(desk, request) for desk in self._desks]))

    async def _ask(self, asked: Sequence[tuple[Desk, Request]]) -> list[Answer]:
        waiting = [Deferred.fromCoroutine(desk.answer(request)) for desk, request in asked]
        answers: list[Any] = [outcome for _, outcome in await DeferredList(waiting, consumeErrors=True)]
        failures = [each for each in answers if isinstance(each, Failure)]
        for each in failures:
            if asked[0][1].get("ask") in _CHANGE and len(failures) < len(answers) and each.check(ControlError):
                raise ControlError(f"{each.value}. Others have done it")
            each.raiseException()
        return answers

    async def _stats(self, request: Request) -> Answer:
        """Sum up a page of each; `after` is a list of where each goes on."""
        after = request.get("after") or [""] * len(self._desks)
        if not isinstance(after, list) or len(after) != len(self._desks):
            raise ControlError("after is what the answer before had in to")
        asked = [number for number, place in enumerate(after) if place is not _END]
        answers = await self._ask([(self._desks[number], {**request, "after": after[number]}) for number in asked])
        places: list[Any] = [_END] * len(self._desks)
        for number, answer in zip(asked, answers, strict=True):
            places[number] = _END if answer["to"] is None else answer["to"]
        return {**_merge_stats(answers), "to": places if any(place is not _END for place in places) else None}


async def share_pauses(desk: Desk) -> None:
    """
    Have all parts of a desk pause what one of them has paused.

    Raises:  ControlError: of one domain, when all others are paused.
    """
    failure: ControlError | None = None
    for lane in (await desk.answer({"ask": "stats", "after": None}))["paused"]:
        try:
            await desk.answer({"ask": "pause", "domain": lane, "by": "an earlier pause"})
        except ControlError as error:
            failure = error
    if failure is not None:
        raise failure


def _merge_found(answers: Sequence[Answer]) -> Answer:
    ends = [answer["to"] for answer in answers if answer["to"] is not None]
    to = min(ends) if ends else None
    entries = sorted((entry for answer in answers for entry in answer["entries"]), key=lambda entry: str(entry["id"]))
    return {"entries": [entry for entry in entries if to is None or entry["id"] <= to], "to": to}


def _merge_shown(answers: Sequence[Answer]) -> Answer:
    return next((answer for answer in answers if answer["entry"] is not None), answers[0])


def _merge_headers(answers: Sequence[Answer]) -> Answer:
    return next((answer for answer in answers if answer["headers"] is not None), answers[0])


def _merge_content(answers: Sequence[Answer]) -> Answer:
    return next((answer for answer in answers if answer["octets"] is not None), answers[0])


def _merge_acted(answers: Sequence[Answer]) -> Answer:
    keys = ("entries", "recipients", "under_way", "later", "untold", "senderless")
    sums = {key: sum(answer[key] for answer in answers) for key in keys}
    paused: Counter[str] = Counter()
    for answer in answers:
        paused.update(answer["paused"])
    return {**sums, "paused": paused, "refused": {name: why for answer in answers for name, why in answer["refused"].items()}}


def _merge_changed(answers: Sequence[Answer]) -> Answer:
    return {"changed": any(answer["changed"] for answer in answers)}


def _merge_resumed(answers: Sequence[Answer]) -> Answer:
    return {**_merge_changed(answers), "is_all_paused": any(answer["is_all_paused"] for answer in answers)}


def _merge_span(answers: Sequence[Answer]) -> Answer:
    there = [answer for answer in answers if answer["first"] is not None]
    if not there:
        return {"first": None, "last": None}
    return {"first": min(each["first"] for each in there), "last": max(each["last"] for each in there)}


def _merge_stats(answers: Sequence[Answer]) -> Answer:
    groups: Groups = {}
    rest = nothing()
    paused: dict[str, float] = {}
    for answer in answers:
        add_groups(groups, answer["groups"])
        add(rest, answer["rest"])
        for lane, since in answer["paused"].items():
            paused[lane] = min(since, paused.get(lane, since))
    keep_largest(groups, rest, GROUPS)
    sums = {key: sum(answer[key] for answer in answers) for key in ("entries", "octets", "corrupt", "attempts")}
    return {"groups": groups, "rest": rest, "paused": paused, **sums}


_MERGES: Final[Mapping[str, Callable[[Sequence[Answer]], Answer]]] = {
    "find": _merge_found,
    "show": _merge_shown,
    "headers": _merge_headers,
    "content": _merge_content,
    "act": _merge_acted,
    "pause": _merge_changed,
    "resume": _merge_resumed,
    "stats": _merge_stats,
    "span": _merge_span,
}
