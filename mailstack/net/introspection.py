"""
Tokens: asks the authorization server whose a token is (RFC 7662).

An answer is believed for a short time, so that a client which opens several sessions does not ask several times; a "no" is not
kept, since the next token may be a good one. What cannot be asked is not answered: whoever asked says "temporary".
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote, urlencode

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, FileBodyProducer, ResponseDone
from twisted.web.http_headers import Headers

ANSWER_OCTETS: Final = 65_536
ANSWER_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 5.0
REMEMBERED_SECONDS: Final = 60.0
REMEMBERED_TOKENS: Final = 10_000


class IntrospectionError(Exception):
    """The authorization server cannot be asked, or gives no answer that can be understood; the message is for the log."""


class Introspection:
    """
    Asks one authorization server.

    Shape:   `url` is that of its introspection endpoint, `https:` unless it is on this machine; `claim` names the member of
             its answer that is the name of an account. `now` is in seconds since 1970, UTC; `trust` replaces the authorities
             of this machine.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        *,
        client: str,
        secret: str,
        claim: str,
        now: Callable[[], float],
        trust: Any = None,
    ) -> None:
        self._reactor = reactor
        self._url = url.encode("ascii")
        self._claim = claim
        self._now = now
        policy = BrowserLikePolicyForHTTPS(trustRoot=trust)
        self._agent = Agent(reactor, policy, connectTimeout=CONNECT_SECONDS)
        login = base64.b64encode(f"{quote(client, safe='')}:{quote(secret, safe='')}".encode()).decode(
            "ascii"
        )  # RFC 6749 §2.3.1
        self._headers = Headers(
            {
                "Authorization": [f"Basic {login}"],
                "Content-Type": ["application/x-www-form-urlencoded"],
                "Accept": ["application/json"],
            }
        )
        self._remembered: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    async def owner(self, token: bytes) -> str | None:
        """
        Return the name that a token stands for, or None when it stands for nobody (any more).

        Raises:  IntrospectionError.
        """
        key = hashlib.sha256(token).digest()
        known = self._remembered.get(key)
        if known is not None and self._now() < known[1]:
            return known[0]
        self._remembered.pop(key, None)
        answer = await self._ask(token)
        name, until = answer.get(self._claim), answer.get("exp")
        if answer.get("active") is not True or not isinstance(name, str) or not name:
            return None
        now = self._now()
        if until is not None and (not isinstance(until, int | float) or until <= now):
            return None
        self._remember(key, name, min(now + REMEMBERED_SECONDS, until or now + REMEMBERED_SECONDS))
        return name

    def _remember(self, key: bytes, name: str, until: float) -> None:
        self._remembered[key] = (name, until)
        if len(self._remembered) > REMEMBERED_TOKENS:
            self._remembered.popitem(last=False)

    async def _ask(self, token: bytes) -> dict[str, Any]:
        from io import BytesIO

        body = FileBodyProducer(BytesIO(urlencode({"token": token, "token_type_hint": "access_token"}).encode("ascii")))
        asking: Deferred[Any] = self._agent.request(b"POST", self._url, self._headers, body)
        try:
            response = await asking.addTimeout(ANSWER_SECONDS, self._reactor)
            if response.code != 200:
                raise IntrospectionError(f"{self._url.decode()} answers {response.code}")
            octets = await _body(response).addTimeout(ANSWER_SECONDS, self._reactor)
            answer = json.loads(octets)
        except IntrospectionError:
            raise
        except Exception as error:  # whatever it is, nobody can say whose the token is
            raise IntrospectionError(f"{self._url.decode()}: {type(error).__name__}: {error}") from error
        if not isinstance(answer, dict):
            raise IntrospectionError(f"{self._url.decode()} answers with no object")
        return answer


class _Body(Protocol):
    """Keeps an answer, up to its limit."""

    def __init__(self, whole: Deferred[bytes]) -> None:
        self._whole = whole
        self._octets = b""

    def dataReceived(self, data: bytes) -> None:
        self._octets += data
        if len(self._octets) > ANSWER_OCTETS:
            transport: Any = self.transport
            transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._whole.called:
            return
        if reason.check(ResponseDone) and len(self._octets) <= ANSWER_OCTETS:
            self._whole.callback(self._octets)
        else:
            self._whole.errback(IntrospectionError("the answer is too long, or not whole"))


def _body(response: Any) -> Deferred[bytes]:
    whole: Deferred[bytes] = Deferred()
    response.deliverBody(_Body(whole))
    return whole


Owner = Callable[[bytes], Awaitable[str | None]]
"""Says whose a token is, as `Introspection.owner`."""
