"""
The MTA-STS policies of domains: found, fetched, kept and renewed.

    nothing is known      the record `_mta-sts.DOMAIN` is asked for, and where there is one the policy is fetched
    a policy is kept      it holds for its max_age, whatever the DNS and its host say meanwhile, since that is what an attacker
                          on the line can change; another id, and the second half of its time, are reasons to fetch it anew
    it cannot be fetched  the old one stays; where there is none, mail goes as it would without, and a report tells of it. It is
                          tried again after RETRY_SECONDS

A policy is fetched once for all who wait for it. What is kept is in a folder, so that a restart does not forget it, and each
worker finds what another has fetched.

In memory are the domains that were asked for last, so many of them and so many octets: a policy is written by a stranger, and
most of them are short, but each may name 200 hosts with the longest of names. What does not fit is read from the folder when it
is asked for again. No part of a policy is ever dropped: mail for a host that is not named any more would wait. One that names
more hosts than that is no policy at all, and a report tells of it; what was kept before holds.

Source:  RFC 8461 §3 and §5.1; §10.2 (why a policy must be renewed before its time is over).
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred

from mailstack.mail.answers import Answer, Failed, Found
from mailstack.mail.mta_sts import POLICY_OCTETS, Mode, Policy, PolicyError, Standing, parse_policy, parse_record
from mailstack.mail.pages import NoPage, Page
from mailstack.mail.tls_results import TLSFailure
from mailstack.relay.ports import Clock, Kept, RunInThread, Start

RETRY_SECONDS: Final = 300.0  # RFC 8461 §3.3 wants a limit to how often one asks
LEAST_SECONDS: Final = 300.0  # a max_age below that would have us fetch for every message
LOOK_AGAIN_SECONDS: Final = 3_600.0
MAX_KNOWN: Final = 5_000
MAX_OCTETS: Final = 16_777_216  # 5,000 policies of 30 hosts each; the longest that there can be would take 300 MB
PATH: Final = "/.well-known/mta-sts.txt"
_OWN_OCTETS: Final = 700  # of what is known of a domain, the longest of names for it included
_POINTER_OCTETS: Final = 8


class Texts(Protocol):
    """Asks the DNS for texts."""

    async def txt(self, name: str) -> Answer[bytes]:
        """Return the texts of a name, the strings of each joined."""


class Fetch(Protocol):
    """Fetches pages by HTTPS."""

    def __call__(self, host: str, path: str, most_octets: int) -> Awaitable[Page | NoPage]:
        """Fetch a page; never raises."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a domain since a time, by the clock; `tried_at` is when a fetch failed last, with its flaw."""

    since: float
    policy: Policy | None = None
    name: str = ""
    tried_at: float = float("-inf")
    flaw: TLSFailure | None = None
    cause: str = ""

    def has_policy(self, now: float) -> bool:
        return self.policy is not None and now < self.since + max(self.policy.max_age_seconds, LEAST_SECONDS)

    def is_old(self, now: float) -> bool:
        return self.policy is not None and now >= self.since + max(self.policy.max_age_seconds, LEAST_SECONDS) / 2

    def may_be_tried(self, now: float) -> bool:
        return now >= self.tried_at + RETRY_SECONDS

    @property
    def octets(self) -> int:
        """What it takes in memory, by and large."""
        texts = (self.name, self.cause, *(() if self.policy is None else self.policy.hosts))
        return _OWN_OCTETS + sum(map(sys.getsizeof, texts)) + _POINTER_OCTETS * len(texts)

    @property
    def standing(self) -> Standing:
        return Standing(self.policy) if self.policy is not None else Standing(None, self.flaw, self.cause)


class Policies:
    """Knows policies; `kept` is where they survive us, None: nowhere."""

    def __init__(
        self, texts: Texts, fetch: Fetch, clock: Clock, start: Start, run_in_thread: RunInThread, kept: Kept | None = None
    ) -> None:
        self._texts = texts
        self._fetch = fetch
        self._clock = clock
        self._start = start
        self._run_in_thread = run_in_thread
        self._kept = kept
        self._known: OrderedDict[str, _Known] = OrderedDict()  # who was asked for last is the last
        self._octets = 0
        self._fetching: dict[str, list[Deferred[None]]] = {}

    async def standing(self, domain: str) -> Standing:
        """Return what is known of a domain's policy now."""
        known = await self._recall(domain)
        answer = await self._texts.txt(f"_mta-sts.{domain}")
        name = parse_record(answer.records) if isinstance(answer, Found) else None
        now = self._clock.seconds()
        if not known.has_policy(now):
            if name is None:
                return Standing(is_unknown=isinstance(answer, Failed))
            if known.may_be_tried(now):
                await self._renewed(domain, name, known)
        elif known.may_be_tried(now):
            if name is not None and name != known.name:
                await self._renewed(domain, name, known)
            elif known.is_old(now) and not isinstance(answer, Failed):
                self._renew(domain, known.name if name is None else name, known)
        known = self._held(domain, known)
        return known.standing if known.has_policy(self._clock.seconds()) else replace(known, policy=None).standing

    async def _recall(self, domain: str) -> _Known:
        """Return what is in memory, or else in the folder."""
        now = self._clock.seconds()
        known = self._known.get(domain)
        if known is not None and (known.has_policy(now) or now < known.since + LOOK_AGAIN_SECONDS):
            self._known.move_to_end(domain)
            return known
        octets = await self._run_in_thread(self._kept.read, domain) if self._kept is not None else None
        newer = self._known.get(domain)
        if newer is not None and newer is not known:  # it was fetched while we read, or read by another
            return newer
        found = None if octets is None else _read(domain, octets)
        if found is None or found.since > now or not found.has_policy(now):
            found = _Known(now)
        self._remember(domain, found)
        return found

    def _remember(self, domain: str, known: _Known) -> None:
        before = self._known.pop(domain, None)
        self._octets += known.octets - (0 if before is None else before.octets)
        self._known[domain] = known
        while len(self._known) > MAX_KNOWN or self._octets > MAX_OCTETS:
            _, oldest = self._known.popitem(last=False)
            self._octets -= oldest.octets

    def _held(self, domain: str, known: _Known) -> _Known:
        """Return what is in memory, unless a policy that was known a moment ago has gone from there."""
        held, now = self._known.get(domain, known), self._clock.seconds()
        return held if held.has_policy(now) or not known.has_policy(now) else known

    async def _renewed(self, domain: str, name: str, known: _Known) -> None:
        """Fetch, and return when it is done: by us, or by another who began before."""
        waiting: Deferred[None] = Deferred()
        self._renew(domain, name, known, waiting)
        await waiting

    def _renew(self, domain: str, name: str, known: _Known, *waiting: Deferred[None]) -> None:
        if (others := self._fetching.get(domain)) is not None:
            others.extend(waiting)
            return
        self._fetching[domain] = list(waiting)
        self._start(self._fetch_policy(domain, name, known), f"fetching the MTA-STS policy of {domain}")

    async def _fetch_policy(self, domain: str, name: str, known: _Known) -> None:
        try:
            found = _judge(await self._fetch(f"mta-sts.{domain}", PATH, POLICY_OCTETS))
            now = self._clock.seconds()
            if isinstance(found, Policy):
                await self._keep(domain, _Known(now, found, name))
            else:
                self._remember(domain, replace(self._held(domain, known), tried_at=now, flaw=found.flaw, cause=found.cause))
        finally:
            for each in self._fetching.pop(domain):
                if not each.called:  # who waited may have been cancelled
                    each.callback(None)

    async def _keep(self, domain: str, known: _Known) -> None:
        try:
            if self._kept is not None:  # first, so that it is there whenever memory has lost it
                await self._run_in_thread(self._kept.write, domain, _write(domain, known))
        finally:
            self._remember(domain, known)


def _judge(page: Page | NoPage) -> Policy | Standing:
    if isinstance(page, NoPage):
        flaw = TLSFailure.STS_WEBPKI_INVALID if page.is_certificate else TLSFailure.STS_POLICY_FETCH_ERROR
        return Standing(None, flaw, page.cause)
    if page.status != 200:
        return Standing(None, TLSFailure.STS_POLICY_FETCH_ERROR, f"HTTP status {page.status}")
    if page.media_type != "text/plain":
        return Standing(None, TLSFailure.STS_POLICY_INVALID, f"it is {page.media_type[:100] or 'of no media type'}")
    try:
        return parse_policy(page.octets)
    except PolicyError as error:
        return Standing(None, TLSFailure.STS_POLICY_INVALID, str(error))


def _write(domain: str, known: _Known) -> bytes:
    policy = known.policy
    assert policy is not None
    document: dict[str, Any] = {
        "domain": domain,
        "id": known.name,
        "fetched_at": known.since,
        "mode": policy.mode.value,
        "mx": policy.hosts,
        "max_age": policy.max_age_seconds,
    }
    return json.dumps(document).encode()


def _read(domain: str, octets: bytes) -> _Known | None:
    try:
        document = json.loads(octets)
        policy = Policy(Mode(document["mode"]), tuple(map(str, document["mx"])), int(document["max_age"]))
        known = _Known(float(document["fetched_at"]), policy, str(document["id"]))
        return known if document["domain"] == domain else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None  # cut, or of another time
