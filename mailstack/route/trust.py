"""
Trust in the next hop: from what is configured, and from what a domain publishes, to what is asked of TLS with one host.

Pure: whoever asks the DNS and fetches policies brings the answers. The order, where the level is "dane": DANE where the host
has TLSA records that a validating resolver vouches for; else the domain's MTA-STS policy; else TLS where it is offered. So an
attacker on the line can weaken it only where the domain has published nothing.

A host of which nobody could say whether it has TLSA records is put off, and so is one whose records are forged: the two look
the same, and to go on in clear is what the forger wants (RFC 7672 §2.1.2).

Source:  RFC 7672 §2 and §3 (DANE for SMTP); RFC 7671 §9 (digests); RFC 8461 §4, §5 (MTA-STS); RFC 8689 §4.2.1 (REQUIRETLS).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from mailstack.mail.answers import TLSA, Answer, Exchange, Failed, Found
from mailstack.mail.mta_sts import Mode, Policy, Standing
from mailstack.mail.status import EnhancedStatus
from mailstack.mail.tls_results import NOT_REPORTED, AppliedPolicy, TLSFailure
from mailstack.route.hosts import NoRoute, is_this_machine

MAX_TLSA: Final = 20

DANE_TA: Final = 2
DANE_EE: Final = 3
_DIGEST_OCTETS: Final = {1: 32, 2: 64}  # SHA2-256, SHA2-512 (RFC 6698 §2.1.3)
_POLICY_FORBIDS: Final = EnhancedStatus(4, 7, 0)
_NO_ANSWER: Final = EnhancedStatus(4, 4, 3)


class TLSPolicy(enum.Enum):
    """
    What is asked of TLS.

    NONE: never used. MAY: used when the host offers it and it works, without verification; else clear. It protects against
    those who only listen (RFC 7435). ENCRYPT: never clear, without verification. VERIFY: never clear, and the certificate must
    be the host's. DANE: what the domain publishes, by DANE or else MTA-STS; where it publishes nothing, MAY.
    """

    NONE = "none"
    MAY = "may"
    ENCRYPT = "encrypt"
    VERIFY = "verify"
    DANE = "dane"


_FROM_LOOSE_TO_STRICT: Final = (TLSPolicy.NONE, TLSPolicy.MAY, TLSPolicy.DANE, TLSPolicy.ENCRYPT, TLSPolicy.VERIFY)
"""By what they ask of whoever publishes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """
    What is asked of TLS with one host, and why.

    Shape:  `level` DANE has records in `tlsa`. `names` are those of which the certificate must bear one, for VERIFY and for
            DANE-TA; the first is asked for (SNI). `source` is whose rule it is, for the log. `is_trusted`: the host is surely
            the one that is meant, as REQUIRETLS wants it. `is_testing`: the certificate is looked at as for VERIFY, and what is
            wrong with it is reported only. `flaw` is what is wrong with the policy itself, and `is_unknown`: nobody could say
            whether there is one. Equals ask the same.
    """

    level: TLSPolicy
    names: tuple[str, ...] = ()
    tlsa: tuple[TLSA, ...] = ()
    source: str = field(default="setting", compare=False)
    is_trusted: bool = field(default=False, compare=False)
    is_testing: bool = False
    applied: AppliedPolicy = field(default=NOT_REPORTED, compare=False)
    flaw: TLSFailure | None = field(default=None, compare=False)
    is_unknown: bool = field(default=False, compare=False)

    @property
    def may_be_clear(self) -> bool:
        """Whether mail may go without TLS."""
        return self.level in (TLSPolicy.NONE, TLSPolicy.MAY)


@dataclass(frozen=True, slots=True)
class Barred:
    """A host must not be used now: why, and what reports say of it."""

    route: NoRoute
    applied: AppliedPolicy
    failure: TLSFailure


def level_of(domain: str, levels: Mapping[str, TLSPolicy], otherwise: TLSPolicy) -> TLSPolicy:
    """
    Return the level that is set for a domain.

    Shape:  a key of `levels` is a domain; or `.` and a domain, for all below it; or `*`. The longest that fits counts.
    """
    return own_level_of(domain, levels) or levels.get("*", otherwise)


def own_level_of(domain: str, levels: Mapping[str, TLSPolicy]) -> TLSPolicy | None:
    """Return the level that is set for a domain or for what is above it; None: it has only that of all others."""
    if (exact := levels.get(domain)) is not None:
        return exact
    name = domain
    while name:
        _, _, name = name.partition(".")
        if name and (above := levels.get(f".{name}")) is not None:
            return above
    return None


def level_of_named(
    host: str, domains: Iterable[str], levels: Mapping[str, TLSPolicy], otherwise: TLSPolicy, *, has_login: bool = False
) -> TLSPolicy:
    """
    Return the level that is set for a host that the operator has named, or for the exchanges of a domain that he has.

    Shape:  `host` is that name, `domains` are those of the recipients: of what is set for any of them the strictest counts.
            `otherwise` is the host's own level. Where it comes with a login it is not fallen below, since it protects that;
            on this machine only what is set for a name counts, since what is set for all is about what leaves it.
    """
    found = {own_level_of(name, levels) for name in (host, *domains)} - {None}
    if has_login:
        found.add(otherwise)
    own = [each for each in _FROM_LOOSE_TO_STRICT if each in found]
    if own:
        return own[-1]
    return otherwise if is_this_machine(host) else levels.get("*", otherwise)


def without_answer(domain: str, cause: str) -> Barred:
    """
    Return what becomes of a host about which nobody could say what must be known to judge it.

    Other answers there were, or there would be no host; that this one is missing may be what an attacker wants.
    """
    route = NoRoute(_NO_ANSWER, f"The DNS does not answer for {domain}", cause)
    return Barred(route, _nothing_found(domain), TLSFailure.DNSSEC_INVALID)


def is_vouched_for(domain: str, host: str, exchanges: Answer[Exchange]) -> bool:
    """
    Say whether a host is one of the domain's by an answer that was validated.

    A domain without MX is its own host: then there is no name that somebody could have put in the place of another.
    """
    if isinstance(exchanges, Found):
        return exchanges.authenticated and any(each.host == host for each in exchanges.records)
    return host == domain and not isinstance(exchanges, Failed)


def tlsa_bases(host: str, ipv6: Answer[str], ipv4: Answer[str], alias: Answer[str] | None = None) -> tuple[str, ...]:
    """
    Return the names below which a host's TLSA records may stand, the first to be asked first (RFC 7672 §2.2.2, §2.2.3).

    Shape:  none: its addresses are not signed, so that its records are not asked for; servers of such zones often fail to
            answer for TLSA. `alias` is the answer for the CNAME of the host, needed only where `is_unsigned_alias` says so.
    """
    found = [each for each in (ipv6, ipv4) if isinstance(each, Found)]
    if not found:
        return ()
    if all(each.authenticated for each in found):
        canonical = found[0].canonical or host
        return (host,) if canonical == host else (canonical, host)
    if isinstance(alias, Found) and alias.authenticated:
        return (host,)
    return ()


def is_unsigned_alias(host: str, ipv6: Answer[str], ipv4: Answer[str]) -> bool:
    """Say whether a host is an alias that leads out of what is signed: its own name may be signed nevertheless."""
    found = [each for each in (ipv6, ipv4) if isinstance(each, Found)]
    return any(not each.authenticated and each.canonical not in ("", host) for each in found)


def usable(records: Sequence[TLSA]) -> tuple[TLSA, ...]:
    """
    Return the records that we can use: of the usages 2 and 3, with digests that we know and of these the strongest.

    Source:  RFC 7672 §3.1.3 (0 and 1 are not used for SMTP); RFC 7671 §9 (of a usage and selector the strongest digest counts).
    """
    known = [
        each
        for each in records[:MAX_TLSA]
        if each.usage in (DANE_TA, DANE_EE)
        and each.selector in (0, 1)
        and ((each.matching == 0 and each.octets) or _DIGEST_OCTETS.get(each.matching) == len(each.octets))
    ]
    strongest = {(each.usage, each.selector): 0 for each in known}
    for each in known:
        strongest[each.usage, each.selector] = max(strongest[each.usage, each.selector], each.matching)
    return tuple(each for each in known if each.matching in (0, strongest[each.usage, each.selector]))


def by_setting(level: TLSPolicy, host: str, domain: str, *, is_trusted: bool) -> Security:
    """Return what a level that is set asks, whatever the domain publishes."""
    applied = _nothing_found(domain)
    return Security(level=level, names=(host,), is_trusted=is_trusted and level is TLSPolicy.VERIFY, applied=applied)


def by_dane(base: str, names: Sequence[str], answer: Answer[TLSA]) -> Security | Barred | None:
    """
    Return what the TLSA records of a host ask; None: it has none that were validated.

    Shape:  `base` is the name below which they stand; `names` are others that the certificate may bear for DANE-TA.
    Source: RFC 7672 §2.2: where none is usable, TLS is still a must, with any certificate.
    """
    match answer:
        case Failed(cause):
            route = NoRoute(_NO_ANSWER, f"The DNS does not answer for the TLSA records of {base}", cause)
            return Barred(route, AppliedPolicy("tlsa", base), TLSFailure.DNSSEC_INVALID)
        case Found(records, True):
            chosen, strings = usable(records), tuple(str(each) for each in records[:MAX_TLSA])
            applied = AppliedPolicy("tlsa", base, strings)
            if not chosen:
                return Security(
                    level=TLSPolicy.ENCRYPT, names=(base,), source="dane", applied=applied, flaw=TLSFailure.TLSA_INVALID
                )
            needs_names = any(each.usage == DANE_TA for each in chosen)
            every = tuple(dict.fromkeys((base, *names))) if needs_names else (base,)
            return Security(level=TLSPolicy.DANE, names=every, tlsa=chosen, source="dane", is_trusted=True, applied=applied)
    return None


def by_mta_sts(domain: str, host: str, standing: Standing) -> Security | Barred:
    """Return what the MTA-STS policy of a domain asks; without one, TLS where it is offered."""
    policy, flaw = standing.policy, standing.flaw
    if policy is None or policy.mode is Mode.NONE:
        applied = _nothing_found(domain) if flaw is None else AppliedPolicy("sts", domain)
        return Security(
            level=TLSPolicy.MAY,
            names=(host,),
            source="opportunistic",
            applied=applied,
            flaw=flaw,
            is_unknown=standing.is_unknown,
        )
    applied = AppliedPolicy("sts", domain, policy.lines(), policy.hosts)
    if policy.mode is Mode.TESTING:
        flaw = None if policy.matches(host) else TLSFailure.VALIDATION_FAILURE
        return Security(
            level=TLSPolicy.MAY, names=(host,), source="mta-sts testing", is_testing=True, applied=applied, flaw=flaw
        )
    return _enforced(domain, host, policy, applied)


def _enforced(domain: str, host: str, policy: Policy, applied: AppliedPolicy) -> Security | Barred:
    if not policy.matches(host):
        route = NoRoute(_POLICY_FORBIDS, f"The MTA-STS policy of {domain} does not name its host {host}")
        return Barred(route, applied, TLSFailure.VALIDATION_FAILURE)
    return Security(level=TLSPolicy.VERIFY, names=(host,), source="mta-sts", is_trusted=True, applied=applied)


def _nothing_found(domain: str) -> AppliedPolicy:
    return AppliedPolicy("no-policy-found", domain)
