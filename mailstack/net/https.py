"""
HTTPS as a client: one question to one host, and its answer, within bounds.

The host must show a certificate of an authority that this machine trusts. Its address comes from our own resolver, and may be
one of this machine or of a private network only where that is allowed: who names the host is a stranger. Redirections are not
followed. What is read is bounded, the head as well as the body, and so is the time in all.

Source:  RFC 8461 §3.3 (what MTA-STS wants of it).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from mailstack.mail.answers import Answer, Found
from mailstack.mail.pages import NoPage, Page
from mailstack.net.http_exchange import HTTPExchange, LateError, NoResponseError, body_of, cause_of, with_tls, within

HEAD_OCTETS: Final = 32_768
CONNECT_SECONDS: Final = 15.0
MAX_ADDRESSES: Final = 4


class Addresses(Protocol):
    """Asks the DNS for addresses."""

    async def ipv4(self, name: str) -> Answer[str]:
        """Return the IPv4 addresses of a host."""

    async def ipv6(self, name: str) -> Answer[str]:
        """Return the IPv6 addresses of a host."""


class HTTPS:
    """
    Asks hosts; any number of times at once.

    Shape:  `is_allowed` says whether an address may be connected to; `trust` are the authorities (an IOpenSSLTrustRoot), None
            means those of this machine; `port` is that of URLs which name none.
    """

    def __init__(
        self,
        reactor: Any,
        addresses: Addresses,
        *,
        is_allowed: Callable[[str], bool],
        trust: Any = None,
        port: int = 443,
        timeout_seconds: float = 60.0,
    ) -> None:
        self._reactor = reactor
        self._addresses = addresses
        self._is_allowed = is_allowed
        self._trust = trust
        self._port = port
        self._timeout_seconds = timeout_seconds

    async def get(self, host: str, path: str, most_octets: int) -> Page | NoPage:
        """Fetch a page; an answer that is longer is none."""
        return await self._in_time(self._ask(b"GET", host, self._port, path, most_octets))

    async def post(self, host: str, port: int | None, path: str, media_type: str, octets: bytes) -> Page | NoPage:
        """Hand over octets."""
        headers = Headers({b"Content-Type": [media_type.encode("ascii")]})
        return await self._in_time(self._ask(b"POST", host, port or self._port, path, HEAD_OCTETS, headers, octets))

    async def _in_time(self, asking: Coroutine[Any, Any, Page | NoPage]) -> Page | NoPage:
        try:
            return await within(self._reactor, self._timeout_seconds, asking)
        except CancelledError:
            raise
        except LateError as error:
            return NoPage(str(error))
        except Exception as error:  # a bulkhead: a name that nobody can have, for instance
            return NoPage(cause_of(error))

    async def _ask(
        self,
        method: bytes,
        host: str,
        port: int,
        path: str,
        most_octets: int,
        headers: Headers | None = None,
        octets: bytes | None = None,
    ) -> Page | NoPage:
        addresses = await self._addresses_of(host)
        if not addresses:
            return NoPage(f"{host} has no address that may be used")
        place = host if port == self._port else f"{host}:{port}"
        page: Page | NoPage = NoPage("")
        for address in addresses[:MAX_ADDRESSES]:
            with HTTPExchange(self._reactor, self._endpoint(host, address, port), most_octets + HEAD_OCTETS) as exchange:
                try:
                    response = await exchange.ask(method, f"https://{place}{path}", headers, octets)
                    return Page(response.code, _media_type(response), await body_of(response, most_octets))
                except NoResponseError as error:
                    page = NoPage(str(error), error.is_certificate)
            if page.is_certificate:
                break
        return page

    async def _addresses_of(self, host: str) -> list[str]:
        answers = [await self._addresses.ipv6(host), await self._addresses.ipv4(host)]
        found = [each for answer in answers if isinstance(answer, Found) for each in answer.records[:MAX_ADDRESSES]]
        return [each for each in found if self._is_allowed(each)]

    def _endpoint(self, host: str, address: str, port: int) -> IStreamClientEndpoint:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        return with_tls(kind(self._reactor, address, port, timeout=CONNECT_SECONDS), host, self._trust)


def _media_type(response: IResponse) -> str:
    field = b"".join(response.headers.getRawHeaders(b"content-type", [b""])[:1])
    return field.partition(b";")[0].strip(b" \t").decode("ascii", "replace").lower()
