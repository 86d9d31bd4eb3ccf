"""
The closed list of log events: every fact that the log of a running mailstack tells, one function each.

An event has a name (the function's), fixed fields, and one line of text. Sessions and entries carry their names, so that one
`grep` follows a message through the house. Passwords and content are never logged; text from outside is escaped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from twisted.logger import Logger, LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from mailstack.mail.address import Address, format_path
from mailstack.mail.disposition import Action, Disposition
from mailstack.mail.envelope import Service
from mailstack.mail.reply import Reply
from mailstack.mail.verdict import Stage

NAMESPACE: Final = "mailstack"

_log = Logger(namespace=NAMESPACE)


def _safe(text: str) -> str:
    """Return text on one line, without control characters and of bounded length."""
    text = text[:500]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _emit(level: LogLevel, name: str, text: str, **fields: Any) -> None:
    # What Logger.emit does, for a third of its cost.
    fields.update(event=name, log_level=level, log_namespace=NAMESPACE, log_source=None, log_format=text, log_time=time.time())
    globalLogPublisher(fields)


def session_opened(session: str, service: Service, peer: str) -> None:
    """A peer connected."""
    _emit(
        LogLevel.info,
        "session_opened",
        "{session}: {service} from {peer}",
        session=session,
        service=service.value,
        peer=peer or "a UNIX socket",
    )


def peer_refused(service: Service, peer: str) -> None:
    """Somebody connected from where nobody may."""
    _emit(LogLevel.warn, "peer_refused", "{service} refused to {peer}", service=service.value, peer=peer)


def proxy_dropped(service: Service, peer: str, why: str) -> None:
    """A proxy did not say for whom it connected."""
    _emit(
        LogLevel.warn,
        "proxy_dropped",
        "{service}: connection from the proxy {peer} dropped, no PROXY header: {why}",
        service=service.value,
        peer=peer,
        why=_safe(why),
    )


def speaks_for(session: str, attributes: Mapping[str, str]) -> None:
    """A trusted peer said who its client is, and that one is the peer from now on (XCLIENT)."""
    _emit(LogLevel.info, "speaks_for", "{session}: speaks for {client}", session=session, client=_client(attributes))


def forwards(session: str, attributes: Mapping[str, str]) -> None:
    """A trusted peer said of whom the message is that begins now (XFORWARD)."""
    _emit(LogLevel.info, "forwards", "{session}: forwards for {client}", session=session, client=_client(attributes))


def _client(attributes: Mapping[str, str]) -> str:
    return _safe(" ".join(f"{name.lower()}={value or 'unavailable'}" for name, value in attributes.items()))


def connection_refused(service: Service, peer: str, limit: str) -> None:
    """A peer connected and was sent away, since one of the limits of connections, which is named, was reached."""
    _emit(
        LogLevel.warn,
        "connection_refused",
        "{service} refused a connection from {peer}: limits.{limit}",
        service=service.value,
        peer=peer,
        limit=limit,
    )


def early_talker(session: str, peer: str) -> None:
    """A peer spoke before it was greeted."""
    _emit(LogLevel.info, "early_talker", "{session}: {peer} spoke before the greeting", session=session, peer=peer)


def session_slowed(session: str, errors: int) -> None:
    """A peer has erred so often that its replies are slow from now on."""
    _emit(LogLevel.info, "session_slowed", "{session}: slowed after {errors} errors", session=session, errors=errors)


def limit_reached(session: str, limit: str) -> None:
    """A session ends, since its peer went beyond one of the limits, which is named."""
    _emit(LogLevel.info, "limit_reached", "{session}: ended by limits.{limit}", session=session, limit=limit)


def session_closed(session: str, reason: str) -> None:
    """A connection ended."""
    _emit(LogLevel.info, "session_closed", "{session}: closed, {reason}", session=session, reason=_safe(reason))


def authenticated(session: str, account: str) -> None:
    """A peer proved to be an account."""
    _emit(LogLevel.info, "authenticated", "{session}: authenticated as {account}", session=session, account=_safe(account))


def client_certificate_refused(peer: str, subject: str, why: str) -> None:
    """A user's program showed a certificate that is not, or no longer, good; its handshake failed."""
    _emit(
        LogLevel.warn,
        "client_certificate_refused",
        "certificate of {subject} from {peer} refused: {why}",
        subject=_safe(subject),
        peer=peer or "a client that has gone",
        why=why,
    )


def authentication_failed(session: str, username: str, peer: str) -> None:
    """A peer failed to prove it."""
    _emit(
        LogLevel.warn,
        "authentication_failed",
        "{session}: authentication of {username} from {peer} failed",
        session=session,
        username=_safe(username),
        peer=peer,
    )


def login_locked_out(session: str, username: str, peer: str) -> None:
    """A peer was not asked for a password, since too many were wrong."""
    _emit(
        LogLevel.warn,
        "login_locked_out",
        "{session}: {peer} is locked out of {username}",
        session=session,
        username=_safe(username),
        peer=peer,
    )


def token_unchecked(session: str, why: str) -> None:
    """Whose a token is could not be found out, so its login was put off."""
    _emit(LogLevel.warn, "token_unchecked", "{session}: a token cannot be checked: {why}", session=session, why=_safe(why))


def command_refused(session: str, reply: Reply | str, cause: str = "") -> None:
    """A command got a 4yz or 5yz reply, or -ERR, for its form or its place."""
    _emit(
        LogLevel.info,
        "command_refused",
        "{session}: refused with {reply} {cause}",
        session=session,
        reply=_safe(str(reply)),
        cause=_safe(cause),
    )


def transaction_refused(
    session: str, stage: Stage, reply: Reply, cause: str, reverse_path: Address | None, recipient: Address | None = None
) -> None:
    """A sender, a recipient or a message was refused."""
    _emit(
        LogLevel.info,
        "transaction_refused",
        "{session}: refused at {stage} from={reverse_path} to={recipient}: {reply} {cause}",
        session=session,
        stage=stage.value,
        reply=_safe(str(reply)),
        cause=_safe(cause),
        reverse_path=_safe(format_path(reverse_path)),
        recipient=_safe(str(recipient)) if recipient else "-",
    )


def entry_accepted(entry: str, session: str, reverse_path: Address | None, recipients: int, octets: int) -> None:
    """A message is on stable storage and got its 250."""
    _emit(
        LogLevel.info,
        "entry_accepted",
        "{entry}: accepted from={reverse_path} recipients={recipients} octets={octets} session={session}",
        entry=entry,
        session=session,
        reverse_path=_safe(format_path(reverse_path)),
        recipients=recipients,
        octets=octets,
    )


def attempt_finished(entry: str, disposition: Disposition, recipient: Address) -> None:
    """An attempt for one recipient has its outcome."""
    level = LogLevel.info if disposition.action not in (Action.DELAYED, Action.FAILED) else LogLevel.warn
    _emit(
        level,
        "attempt_finished",
        "{entry}: to={recipient} {action} status={status} by={remote_mta} tls={tls}: {diagnostic} {cause}",
        entry=entry,
        recipient=_safe(str(recipient)),
        action=disposition.action.value,
        status=str(disposition.status),
        remote_mta=_safe(disposition.remote_mta) if disposition.remote_mta else "-",
        tls=_safe(disposition.tls) if disposition.tls else "-",
        diagnostic=_safe(disposition.diagnostic),
        cause=_safe(disposition.cause),
    )


def destination_down(lane: str, seconds: float, disposition: Disposition) -> None:
    """A destination could not be used again and again; its mail waits."""
    _emit(
        LogLevel.warn,
        "destination_down",
        "{destination} is down, asked again in {seconds:.0f} s: {status} {diagnostic} {cause}",
        destination=_safe(lane),
        seconds=seconds,
        status=str(disposition.status),
        diagnostic=_safe(disposition.diagnostic),
        cause=_safe(disposition.cause),
    )


def destination_up(lane: str) -> None:
    """A destination that was down answers."""
    _emit(LogLevel.info, "destination_up", "{destination} is up again", destination=_safe(lane))


def entry_finished(entry: str) -> None:
    """Nothing is left to be done for an entry."""
    _emit(LogLevel.info, "entry_finished", "{entry}: finished", entry=entry)


def entry_in_hands(entry: str, act: str, recipients: int, by: str) -> None:
    """The operator did something with recipients of an entry."""
    _emit(
        LogLevel.info,
        "entry_in_hands",
        "{entry}: {act} by {by} recipients={recipients}",
        entry=entry,
        act=act,
        recipients=recipients,
        by=_safe(by),
    )


def entry_read(entry: str, what: str, by: str) -> None:
    """The operator looked into a message."""
    _emit(LogLevel.info, "entry_read", "{entry}: {what} read by {by}", entry=entry, what=what, by=_safe(by))


def queue_paused(lane: str, by: str, *, is_paused: bool) -> None:
    """The operator paused or resumed what goes to a domain."""
    _emit(
        LogLevel.info,
        "queue_paused",
        "queue: {lane} {what} by {by}",
        lane=_safe(lane),
        what="paused" if is_paused else "resumed",
        by=_safe(by),
    )


def control_missing(why: str) -> None:
    """The server cannot be told anything by the operator's command, but serves mail."""
    _emit(LogLevel.error, "control_missing", "no control socket, the queue cannot be asked: {why}", why=_safe(why))


def dsn_queued(entry: str, dsn_entry: str) -> None:
    """A delivery status notification for an entry is in the spool."""
    _emit(LogLevel.info, "dsn_queued", "{entry}: notification {dsn_entry}", entry=entry, dsn_entry=dsn_entry)


def dsn_dropped(entry: str, why: str) -> None:
    """A failure is not reported, since there is nobody to report it to."""
    _emit(LogLevel.warn, "dsn_dropped", "{entry}: no notification, {why}", entry=entry, why=_safe(why))


def sender_kept(reverse_path: Address) -> None:
    """Mail is forwarded under the address of its sender, which would be too long were it rewritten (SRS)."""
    _emit(LogLevel.warn, "sender_kept", "{reverse_path} is too long to be rewritten", reverse_path=_safe(str(reverse_path)))


def tls_given_up(host: str, seconds: float) -> None:
    """A host with which TLS worked has had none for so long that mail goes to it in clear again."""
    _emit(
        LogLevel.warn,
        "tls_given_up",
        "{host}: TLS worked before and has been missing for {seconds} s, mail goes in clear",
        host=_safe(host),
        seconds=int(seconds),
    )


def tls_report_sent(domain: str, place: str, octets: int) -> None:
    """A domain is told how TLS with its hosts went yesterday; the octets are those of the report, unpacked."""
    _emit(
        LogLevel.info,
        "tls_report_sent",
        "TLS report about {domain} to {place} octets={octets}",
        domain=_safe(domain),
        place=_safe(place),
        octets=octets,
    )


def maildrop_opened(session: str, account: str, messages: int, octets: int) -> None:
    """A user opened a maildrop by POP3."""
    _emit(
        LogLevel.info,
        "maildrop_opened",
        "{session}: maildrop of {account} messages={messages} octets={octets}",
        session=session,
        account=_safe(account),
        messages=messages,
        octets=octets,
    )


def maildrop_closed(session: str, account: str, deleted: int, failed: int) -> None:
    """A user left a maildrop; `failed` messages should have been removed and were not."""
    _emit(
        LogLevel.error if failed else LogLevel.info,
        "maildrop_closed",
        "{session}: maildrop of {account} closed deleted={deleted} failed={failed}",
        session=session,
        account=_safe(account),
        deleted=deleted,
        failed=failed,
    )


def policy_failed(policy: str, stage: Stage, failure: Failure) -> None:
    """A policy raised or hung; the mail is deferred."""
    _log.failure("{policy}: failed at {stage}, deferring", failure, policy=policy, stage=stage.value, event="policy_failed")


def unexpected(what: str, failure: Failure) -> None:
    """Something failed that nobody expected; mail concerned by it waits."""
    _log.failure("{what}", failure, what=what, event="unexpected")


def spool_recovered(spool: str, entries: int, removed_files: int, *, is_counted: bool) -> None:
    """A spool was opened, and this is what it held; of very many entries not all are counted."""
    _emit(
        LogLevel.info,
        "spool_recovered",
        "{spool}: {entries}{or_more} waiting, {removed_files} unfinished files removed",
        spool=spool,
        entries=entries,
        or_more="" if is_counted else " or more",
        removed_files=removed_files,
    )


def no_space(spool: str, free_octets: int, wanted_octets: int) -> None:
    """New mail is refused from now on, since what is left of the disk is for what was accepted."""
    _emit(
        LogLevel.error,
        "no_space",
        "{spool}: new mail is refused with 452: the disk has {free} octets left, {wanted} are kept free, or it has no inodes",
        spool=spool,
        free=free_octets,
        wanted=wanted_octets,
    )


def space_again(spool: str, free_octets: int) -> None:
    """New mail is taken again."""
    _emit(
        LogLevel.info,
        "space_again",
        "{spool}: new mail is taken again: the disk has {free} octets left",
        spool=spool,
        free=free_octets,
    )


def listening(service: Service, address: str) -> None:
    """A service listens."""
    _emit(LogLevel.info, "listening", "{service} listens on {address}", service=service.value, address=address)


def reloaded(what: Sequence[str]) -> None:
    """Configuration and certificates were read again."""
    _emit(LogLevel.info, "reloaded", "reloaded: {what}", what=", ".join(what))


def reload_failed(errors: Sequence[str]) -> None:
    """The new configuration is wrong; the old one stays in force."""
    _emit(LogLevel.error, "reload_failed", "reload refused, the old configuration stays: {errors}", errors="; ".join(errors))


def stopping(sessions: int) -> None:
    """The services stop; running transactions may end."""
    _emit(LogLevel.info, "stopping", "stopping: {sessions} sessions to drain", sessions=sessions)


def stopped() -> None:
    """Everything has ended."""
    _emit(LogLevel.info, "stopped", "stopped")


def reactor_delay(p50_ms: float, p99_ms: float, most_ms: float) -> None:
    """How long what was to be done at once had to wait, since the start."""
    _emit(
        LogLevel.info,
        "reactor_delay",
        "reactor delay p50={p50_ms:.1f} p99={p99_ms:.1f} most={most_ms:.1f} ms",
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        most_ms=most_ms,
    )


def worker_started(worker: int, pid: int) -> None:
    """A worker process has its spool and accepts connections."""
    _emit(LogLevel.info, "worker_started", "worker {worker} serves, process {pid}", worker=worker, pid=pid)


def worker_died(worker: int, pid: int, how: str, wait_seconds: float) -> None:
    """A worker process ended that should not have; another takes its place."""
    _emit(
        LogLevel.error,
        "worker_died",
        "worker {worker}, process {pid}, {how}; the next starts in {wait_seconds} s",
        worker=worker,
        pid=pid,
        how=how,
        wait_seconds=wait_seconds,
    )


def worker_refused(worker: int, why: str) -> None:
    """A worker process cannot do what it should."""
    _emit(LogLevel.error, "worker_refused", "worker {worker}: {why}", worker=worker, why=_safe(why))


def worker_killed(worker: int, pid: int, why: str) -> None:
    """A worker process is killed, since it does not end by itself."""
    _emit(LogLevel.error, "worker_killed", "worker {worker}, process {pid}, is killed: {why}", worker=worker, pid=pid, why=why)


def worker_said(worker: int, level: LogLevel, text: str) -> None:
    """Something that a worker process logs, where the log can be written by one process only."""
    _emit(level, "worker_said", "{said}", said=text, worker=worker, log_system=f"worker {worker}#{level.name}")
