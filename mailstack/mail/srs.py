"""
The Sender Rewriting Scheme: a reverse-path of ours in which that of somebody else is kept. Pure.

Who forwards mail abroad sends it in the name of a domain that has not allowed that (SPF). So the mail goes on under an address
of ours, and a notification comes back to us, who know by the address itself to whom it must go:

    the reverse-path                              rewritten before    goes on as
    --------------------------------------------  ------------------  -----------------------------------------------------
    alice@example.com                             by nobody           SRS0=HHHHHH=TT=example.com=alice@ours
    SRS0=hhhh=tt=example.com=alice@first.example  once                SRS1=HHHHHH=first.example==hhhh=tt=example.com=alice@ours
    SRS1=hhhh=first.example==…@second.example     more than once      SRS1=HHHHHH=first.example==…@ours

HHHHHH is an HMAC over the rest, without which anybody could have us send mail to anybody; TT is the day, so that an address is
of no use for longer than a bounce takes. An SRS1 address leads back to the first who rewrote it, not along the whole way, and
the first looks at its day.

The form and the HMAC are those of libsrs2 and of postsrsd, so that what one of them has written with the same secret, and with
a hash as long as ours, comes back here, too. Others may have changed the case of letters, so it counts for nothing.

Source:  "The Sender Rewriting Scheme" by M. Wong and S. Mazor, and libsrs2. There is no RFC.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, field
from typing import Final

from mailstack.mail.address import LOCAL_PART_OCTETS, Address, AddressError, parse_domain

HASH_CHARACTERS: Final = 6
"""
Of base64 without regard to case: three thousand millions. The usual 4 are two millions, which can be tried in a few hours.
"""

DAYS: Final = 21
"""How long an address is good; longer than any host tries to deliver."""

_DAY_SECONDS: Final = 86_400
_PERIOD_DAYS: Final = 1_024
_DIGITS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_FIRST, _AGAIN = "SRS0", "SRS1"
_SEPARATORS: Final = "=+-"  # the one behind the tag; all others are "="


class SRSError(ValueError):
    """The address is none of ours any more, or never was; the message says why, in words that may be shown to the peer."""


def is_rewritten(local_part: str) -> bool:
    """Say whether it looks like that of a rewritten address, whoever wrote it."""
    return local_part[:4].upper() in (_FIRST, _AGAIN) and local_part[4:5] != "" and local_part[4] in _SEPARATORS


@dataclass(frozen=True, slots=True)
class SenderRewriting:
    """
    Rewrites reverse-paths to addresses of a domain of ours, and back.

    Shape:  `secrets` is not empty; the first one signs, all are good for what comes back, so that they can be changed.
    """

    domain: str
    secrets: tuple[bytes, ...] = field(repr=False)
    hash_characters: int = HASH_CHARACTERS

    def rewrite(self, sender: Address, now: float) -> Address | None:
        """
        Rewrite a reverse-path; None: it would be too long.

        Units:  `now` in seconds since 1970, UTC.
        """
        local_part = self._again(sender) if is_rewritten(sender.local_part) else None
        if local_part is None:
            day = _day(int(now // _DAY_SECONDS))
            local_part = f"{_FIRST}={self._hash(self.secrets[0], day, sender.domain, sender.local_part)}={day}"
            local_part += f"={sender.domain}={sender.local_part}"
        return Address(local_part, self.domain) if len(local_part.encode()) <= LOCAL_PART_OCTETS else None

    def _again(self, sender: Address) -> str | None:
        """Rewrite what was rewritten before; None: it only looks so."""
        if sender.local_part[:4].upper() == _FIRST:
            host, rest = sender.domain, sender.local_part[4:]
        else:
            _, _, behind = sender.local_part[5:].partition("=")  # the hash of somebody else
            host, _, rest = behind.partition("=")
            if not _is_domain(host) or rest[:1] not in tuple(_SEPARATORS):
                return None
        return f"{_AGAIN}={self._hash(self.secrets[0], host, rest)}={host}={rest}"

    def restore(self, rewritten: Address, now: float) -> Address:
        """
        Return the address that was rewritten.

        Raises:  SRSError: it was not by us, or too long ago.
        """
        tag, rest = rewritten.local_part[:4].upper(), rewritten.local_part[5:]
        if not is_rewritten(rewritten.local_part):
            raise SRSError("This is not a return address of ours")
        if tag == _FIRST:
            mark, day, host, user = _fields(rest, 4)
            self._check(mark, day, host, user)
            if _age_days(day, int(now // _DAY_SECONDS)) > DAYS:
                raise SRSError("This return address has expired")
            return _address(user, host)
        mark, host, first = _fields(rest, 3)
        self._check(mark, host, first)
        if first[0] not in _SEPARATORS:
            raise SRSError("This is not a return address of ours")
        return _address(_FIRST + first, host)

    def _check(self, mark: str, *parts: str) -> None:
        given = mark.encode().lower()
        if not any([hmac.compare_digest(given, self._hash(each, *parts).encode().lower()) for each in self.secrets]):  # noqa: C419 (all, always)
            raise SRSError("This is not a return address of ours")

    def _hash(self, secret: bytes, *parts: str) -> str:
        digest = hmac.new(secret, "".join(parts).encode().lower(), "sha1")  # lower() of octets leaves all but A to Z alone
        return base64.b64encode(digest.digest())[: self.hash_characters].decode("ascii")


def _fields(text: str, count: int) -> list[str]:
    fields = text.split("=", count - 1)
    if len(fields) != count or not all(fields):
        raise SRSError("This is not a return address of ours")
    return fields


def _address(user: str, host: str) -> Address:
    try:
        return Address(user, parse_domain(host))
    except AddressError:
        raise SRSError("This is not a return address of ours") from None


def _is_domain(text: str) -> bool:
    try:
        parse_domain(text)
    except AddressError:
        return False
    return True


def _day(days: int) -> str:
    """Write a day in two digits; they begin again after three years."""
    return _DIGITS[days // 32 % 32] + _DIGITS[days % 32]


def _age_days(text: str, today: int) -> int:
    """Return how old a day is; one that is not over yet is very old."""
    digits = [_DIGITS.find(each) for each in text.upper()]
    if len(digits) != 2 or -1 in digits:
        return _PERIOD_DAYS
    return (today - (digits[0] * 32 + digits[1])) % _PERIOD_DAYS
