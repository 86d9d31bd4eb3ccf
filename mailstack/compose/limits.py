"""Limits: from the tables of the configuration to what each room knows of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mailstack.compose.place import Place
from mailstack.lockout import LockoutLimits
from mailstack.mail.envelope import Service
from mailstack.retrieve.limits import POP3Limits
from mailstack.settings import Limits as LimitsTable
from mailstack.settings import Pop3, Queue, Relay
from mailstack.spool.concurrency import Pauses, Rate
from mailstack.spool.lanes import Limits as LaneLimits
from mailstack.wire.limits import BareNewline
from mailstack.wire.limits import Limits as SMTPLimits

LONGEST_PAUSE_SECONDS: Final = 3_600.0
LEAST_WORKS: Final = 1_000
LEAST_OCTETS: Final = 16_777_216  # of what waits in the memory of a worker, however many of them share what there is
_ALL: Final = LaneLimits()
_LEFT_OVER: Final = LaneLimits(attempts_at_once=5, per_destination=1, works=200, octets=8_388_608, works_per_destination=100)
"""Of a spool without a worker of its own: what is left in it comes on top of what the limits allow."""


def smtp_limits(limits: LimitsTable, service: Service, *, binary: bool) -> SMTPLimits:
    """Return those of a session by which mail comes in; `binary` says whether BINARYMIME may."""
    return SMTPLimits(
        message_octets=limits.message_octets,
        recipients=limits.recipients,
        header_octets=limits.header_octets,
        header_fields=limits.header_fields,
        command_line_octets=limits.command_line_octets,
        errors=limits.errors,
        free_errors=limits.errors_before_delay,
        idle_commands=limits.idle_commands,
        authentication_failures=limits.failed_logins_per_session,
        error_delay_seconds=limits.error_delay_seconds,
        greeting_pause_seconds=limits.greeting_pause_seconds,
        command_seconds=limits.command_timeout_seconds,
        content_seconds=limits.data_timeout_seconds,
        content_octets_per_second=limits.data_octets_per_second,
        handshake_seconds=limits.handshake_timeout_seconds,
        session_seconds=limits.session_timeout_seconds,
        binary=binary,
        bare_newline=_bare_newline(service, limits.bare_newline),
        sessions=limits.connections,
        sessions_per_peer=limits.connections_per_peer,
        sessions_per_network=limits.connections_per_network,
        sessions_per_minute=limits.connections_per_minute,
    )


def _bare_newline(service: Service, wanted: str) -> BareNewline:
    """Our own users' programs are not attackers, and some of them end lines with LF."""
    return BareNewline.NORMALISE if service.is_submission else BareNewline(wanted)


def pop3_limits(limits: LimitsTable, pop3: Pop3) -> POP3Limits:
    """Return those of a session by which a user fetches mail."""
    return POP3Limits(
        idle_seconds=pop3.idle_timeout_seconds,
        failed_logins=limits.failed_logins_per_session,
        sessions=limits.connections,
        sessions_per_peer=limits.connections_per_peer,
        sessions_per_network=limits.connections_per_network,
        sessions_per_minute=limits.connections_per_minute,
    )


def lockout_limits(limits: LimitsTable) -> LockoutLimits:
    """Return how many logins may fail."""
    return LockoutLimits(
        failures=limits.failed_logins,
        failures_per_network=limits.failed_logins_per_network,
        window_seconds=limits.failed_logins_seconds,
    )


def lane_limits(relay: Relay, queue: Queue, place: Place) -> LaneLimits:
    """Return how much goes out at once, and how fast, from the spool of one worker."""
    part_of = place.part_of
    return LaneLimits(
        attempts_at_once=part_of(relay.attempts_at_once),
        initial_per_destination=part_of(relay.initial_per_destination),
        per_destination=part_of(relay.per_destination),
        works=max(part_of(_ALL.works), LEAST_WORKS),
        octets=max(part_of(_ALL.octets), LEAST_OCTETS),
        pauses=Pauses(queue.retry_first_seconds, min(LONGEST_PAUSE_SECONDS, queue.retry_most_seconds)),
        rates={domain: Rate(each.messages, each.seconds * place.workers) for domain, each in relay.rates.items()},
    )


def of_left_over(limits: LaneLimits) -> LaneLimits:
    """Return those of a spool that falls to a worker beside its own."""
    return replace(_LEFT_OVER, pauses=limits.pauses, rates=limits.rates)
