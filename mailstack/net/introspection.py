"""
Tokens: asks the authorization server whose a token is (RFC 7662).

Theory of operation: each question is one HTTP request on a connection of its own, which is dropped when the answer is there, or
too long, or too late; waiting for a free place among those that ask counts, too. An answer that names somebody is believed for
a short time, and never longer than the token is good for, so that a client with several sessions does not ask several times.

A "no" is believed for a short time as well: the lockout counts a bad token once, however often it is shown, so that an old one
in a telephone keeps nobody out, and a stranger must not make us ask about it as often as he likes. It is not for long, since
the server may know better soon after. The two are kept apart, so that many bad tokens push out none that is good. Of sessions
that show the same token at once one asks, and the others wait for what it hears.

What cannot be asked is not answered: whoever asked says "temporary". That is not kept.

Nothing is kept of a token but a hash with a key that this process made, and no error tells one.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn
from urllib.parse import quote, urlencode, urlsplit

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.http_headers import Headers

from mailstack.credentials import TokensUnavailable
from mailstack.net.http_exchange import HTTPExchange, LateError, NoResponseError, body_of, cause_of, with_tls, within

ANSWER_OCTETS: Final = 65_536  # with its header section
BELIEVED_SECONDS: Final = 60.0
BELIEVED_TOKENS: Final = 10_000
REFUSED_SECONDS: Final = 60.0
REFUSED_TOKENS: Final = 10_000
ASKED_AT_ONCE: Final = 20
NAME_LETTERS: Final = 1_024

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_OF_ACCESS: Final = frozenset(("bearer", "access_token", "access", "jwt", "at+jwt", "application/at+jwt"))
"""What servers call the tokens that are meant here, as against those to refresh them with, or that say who logged in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """
    An authorization server, and what a token of it must be.

    Shape:  `url` is that of its introspection endpoint, ASCII; `client_id` and `client_secret` are who we are there. `claim` is
            the member of its answer that names an account. Each of the `scopes` is wanted, and the `audience`, if there is one.
    Units:  `timeout_seconds` for a whole question.
    """

    url: str
    client_id: str
    client_secret: str = field(repr=False)
    claim: str = "username"
    scopes: Collection[str] = ()
    audience: str | None = None
    timeout_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class _Judged:
    """Whose a token is, None: nobody's; and how long that is believed, in seconds since 1970."""

    owner: str | None
    until: float


class Introspection:
    """
    Asks one authorization server.

    Shape:  `key` is of 16 to 64 octets that nobody else knows; `now` is in seconds since 1970, UTC; `trust` replaces the
            authorities of this machine.
    """

    def __init__(self, reactor: Any, authority: Authority, *, key: bytes, now: Callable[[], float], trust: Any = None) -> None:
        self._reactor = reactor
        self._authority = authority
        self._key = key
        self._now = now
        self._trust = trust
        self._url = urlsplit(authority.url)
        # RFC 6749 §2.3.1: both are encoded as in a form, and only then as Basic wants it.
        login = f"{quote(authority.client_id, safe='')}:{quote(authority.client_secret, safe='')}".encode()
        self._headers = Headers(
            {
                "Authorization": [f"Basic {base64.b64encode(login).decode('ascii')}"],
                "Content-Type": ["application/x-www-form-urlencoded"],
                "Accept": ["application/json"],
            }
        )
        self._places = DeferredSemaphore(ASKED_AT_ONCE)
        self._believed: OrderedDict[bytes, _Judged] = OrderedDict()
        self._refused: OrderedDict[bytes, _Judged] = OrderedDict()
        self._asking: dict[bytes, list[Deferred[None]]] = {}

    async def owner(self, token: bytes) -> str | None:
        """
        Return the name that a token stands for, or None when it stands for nobody, or nobody any more, or not for this.

        Raises:  TokensUnavailable.
        """
        name = hashlib.blake2b(token, key=self._key, digest_size=32).digest()
        judged = self._recall(name)
        if judged is None:
            try:
                judged = await within(self._reactor, self._authority.timeout_seconds, self._ask_once(name, token))
            except LateError as error:
                raise TokensUnavailable(f"{self._authority.url}: {error}") from None
        return judged.owner

    def _recall(self, name: bytes) -> _Judged | None:
        now = self._now()
        for judged in (self._believed.get(name), self._refused.get(name)):
            if judged is not None and now < judged.until:
                return judged
        return None

    def _remember(self, name: bytes, judged: _Judged) -> None:
        is_good = judged.owner is not None
        kept, most = (self._believed, BELIEVED_TOKENS) if is_good else (self._refused, REFUSED_TOKENS)
        for each in (self._believed, self._refused):
            each.pop(name, None)
        kept[name] = judged
        if len(kept) > most:
            kept.popitem(last=False)

    async def _ask_once(self, name: bytes, token: bytes) -> _Judged:
        while (others := self._asking.get(name)) is not None:
            waiting: Deferred[None] = Deferred()
            others.append(waiting)
            await waiting
            if (judged := self._recall(name)) is not None:  # else who asked heard nothing, or has gone
                return judged
        self._asking[name] = []
        try:
            answer = await self._ask_in_turn(token)
            now = self._now()
            owner, until = judge(answer, self._authority, now), answer.get("exp")
            if owner is None:
                judged = _Judged(None, now + REFUSED_SECONDS)
            else:
                judged = _Judged(owner, now + BELIEVED_SECONDS if until is None else min(now + BELIEVED_SECONDS, until))
            self._remember(name, judged)
            return judged
        finally:
            for each in self._asking.pop(name):
                if not each.called:  # who waited may have been cancelled
                    each.callback(None)

    async def _ask_in_turn(self, token: bytes) -> dict[str, Any]:
        await self._places.acquire()
        try:
            return await self._ask(token)
        finally:
            self._places.release()

    def _endpoint(self) -> IStreamClientEndpoint:
        host, port = self._url.hostname or "", self._url.port or _DEFAULT_PORTS[self._url.scheme]
        endpoint = HostnameEndpoint(self._reactor, host, port, timeout=self._authority.timeout_seconds)
        return endpoint if self._url.scheme == "http" else with_tls(endpoint, host, self._trust)

    async def _ask(self, token: bytes) -> dict[str, Any]:
        try:
            with HTTPExchange(self._reactor, self._endpoint(), ANSWER_OCTETS) as exchange:
                return await self._answer(token, exchange)
        except (TokensUnavailable, CancelledError):
            raise
        except NoResponseError as error:
            raise TokensUnavailable(f"{self._authority.url}: {error}") from None
        except Exception as error:  # a bulkhead: whatever it is, nobody can say now whose the token is
            raise TokensUnavailable(f"{self._authority.url}: {cause_of(error)}") from None

    async def _answer(self, token: bytes, exchange: HTTPExchange) -> dict[str, Any]:
        form = urlencode({"token": token, "token_type_hint": "access_token"}).encode("ascii")
        response = await exchange.ask(b"POST", self._authority.url, self._headers, form)
        if response.code != 200:
            raise TokensUnavailable(f"{self._authority.url} answers {response.code}")
        octets = await body_of(response, ANSWER_OCTETS, ends_by_itself=True)  # as JSON does
        answer = json.loads(octets, parse_constant=_no_number)
        if not isinstance(answer, dict):
            raise TokensUnavailable(f"{self._authority.url} answers with no object")
        return answer


def judge(answer: Mapping[str, Any], authority: Authority, now: float) -> str | None:
    """
    Return the name that an answer gives to the owner of a token, or None when the token is not for us.

    A token of another kind may be active, too: one that only refreshes others, or that is bound to a key (RFC 8705, RFC 9449),
    which who shows it has not proved to have.

    Source:  RFC 7662 §2.2.
    """
    until = answer.get("exp")
    if answer.get("active") is not True or not (until is None or (isinstance(until, int | float) and now < until)):
        return None
    kinds = [answer[each] for each in ("token_type", "token_use", "typ") if each in answer]
    if "cnf" in answer or not all(isinstance(each, str) and each.lower() in _OF_ACCESS for each in kinds):
        return None
    if not set(authority.scopes) <= set(_texts(answer.get("scope"), " ")):
        return None
    if authority.audience is not None and authority.audience not in _texts(answer.get("aud")):
        return None
    name = answer.get(authority.claim)
    if authority.claim == "email" and answer.get("email_verified", True) is not True:
        return None  # who may write any address into a profile owns none
    return name if isinstance(name, str) and 0 < len(name) <= NAME_LETTERS else None


def _texts(value: Any, separator: str | None = None) -> list[str]:
    """Return the texts in a list, or in a text that stands for one."""
    if isinstance(value, str):
        return value.split(separator) if separator else [value]
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
