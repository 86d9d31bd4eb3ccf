"""
`mailstack check`: everything that would keep the server from starting or from doing its work, found before it is started.

The configuration alone first; if that is sound, what it names: certificate, secrets, folders, directory, postmaster, policies.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mailstack.console.asking import config_option, find_config, json_option, show_result
from mailstack.directory.records import DirectoryError

if TYPE_CHECKING:
    from mailstack.mail.address import Address
    from mailstack.settings import Problem, Settings

SOCKET_PATH_OCTETS: Final = 107
"""unix(7): sun_path, but for its last octet."""

Finding = tuple[str, str]
"""A key, `table.name`, and what is wrong with what it says."""


@click.command(epilog="Example: mailstack check --config /etc/mailstack/mailstack.toml")
@config_option
@json_option
@click.pass_context
def check(context: click.Context, config: Path | None, as_json: bool) -> None:
    """Check the configuration and what it names. Exit code 1, and a line for every error, if something is wrong."""
    from mailstack.settings import SettingsError, load

    path = find_config(config)
    try:
        settings = load(path)
        problems = tuple(find_problems(path, settings))
    except SettingsError as error:
        problems = error.problems
    if problems:
        facts = [asdict(problem) for problem in problems]
        click.echo("\n".join(str(problem) for problem in problems), err=True)
        if as_json:
            show_result(True, "", ok=False, config=str(path), problems=facts)
        context.exit(1)
    show_result(as_json, _summary(path, settings), ok=True, config=str(path), problems=[])


def find_problems(path: Path, settings: Settings) -> Iterator[Problem]:
    """Yield what is wrong around a configuration that is sound in itself. Reads files, changes none."""
    from mailstack.settings import problem_at

    for find in (_certificate, _relay, _sockets, _srs, _folders, _spool, _people, _policies):
        for key, reason in find(settings):
            yield problem_at(path, key, reason)


def _certificate(settings: Settings) -> Iterator[Finding]:
    if settings.tls.certificate is None or settings.tls.key is None:
        return
    from cryptography.x509 import load_pem_x509_certificate

    from mailstack.net.tls import CertificateError, CertificateStore

    try:
        tls = settings.tls
        CertificateStore(settings.tls.certificate, settings.tls.key, tls.client_authority, tls.client_revocations).load()
    except CertificateError as error:
        keys = ("key", "client_authority", "client_revocations")
        named = (f"tls.{key}" for key in keys if str(error).startswith(f"{getattr(settings.tls, key)}: "))
        yield next(named, "tls.certificate"), str(error)
        return
    leaf = load_pem_x509_certificate(settings.tls.certificate.read_bytes())
    if leaf.not_valid_after_utc < datetime.now(UTC):
        yield "tls.certificate", f"{settings.tls.certificate} expired on {leaf.not_valid_after_utc:%Y-%m-%d}; renew it"


def _relay(settings: Settings) -> Iterator[Finding]:
    relay = settings.relay
    if relay.client_certificate is None or relay.client_key is None:
        return
    from mailstack.net.tls import CertificateError, identity, read_pair

    try:
        identity(relay.client_certificate, relay.client_key, read_pair(relay.client_certificate, relay.client_key))
    except CertificateError as error:
        yield f"relay.{'client_key' if str(error).startswith(f'{relay.client_key}: ') else 'client_certificate'}", str(error)


def _sockets(settings: Settings) -> Iterator[Finding]:
    from mailstack.settings import SocketFile

    for endpoint in settings.listen.lmtp:
        if isinstance(endpoint, SocketFile) and not endpoint.path.parent.is_dir():
            yield "listen.lmtp", f"{endpoint.path.parent} is no folder; make it for the user of the server"
    for key, group in (("listen.lmtp_group", settings.listen.lmtp_group), ("control.group", settings.control.group)):
        try:
            if group is not None:
                grp.getgrnam(group)
        except KeyError:
            yield key, f"there is no group {group}"
    path = settings.control_file
    if len(os.fsencode(path)) > SOCKET_PATH_OCTETS:
        yield (
            "folder",
            f"{path} is longer than the {SOCKET_PATH_OCTETS} octets that the path of a socket may have, so `mailstack queue` "
            "cannot ask the server; name a folder with a shorter path",
        )


def _srs(settings: Settings) -> Iterator[Finding]:
    from mailstack.settings import read_secrets

    try:
        if settings.srs.secret_file is not None:
            read_secrets(settings.srs.secret_file)
    except ValueError as error:
        yield "srs.secret_file", str(error)


def _folders(settings: Settings) -> Iterator[Finding]:
    from mailstack.store.folders import MARKER_NAME

    folder = settings.folder
    try:
        owner = folder.stat().st_uid
    except OSError as error:
        yield "folder", f"{folder} cannot be used: {error.strerror}; make it: mkdir -m 700 {folder}"
        return
    for each in (folder, settings.spool_folder, settings.mail_folder):
        if not each.exists():
            continue
        found = each.stat()
        if not stat.S_ISDIR(found.st_mode):
            yield "folder", f"{each} is not a folder"
        elif found.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            yield "folder", f"{each} is open to others (mode {stat.S_IMODE(found.st_mode):03o}); run: chmod 700 {each}"
        elif found.st_uid != owner:
            yield "folder", f"{each} belongs to another user than {folder}; run: chown -R --reference={folder} {each}"

    marker = settings.mail_folder / MARKER_NAME
    if not marker.exists():
        yield (
            "folder",
            f"{marker} does not exist, so no mail is delivered: is a disk not mounted? "
            f"If the folder is meant to be new: mkdir -m 700 -p {marker.parent} && touch {marker}",
        )


def _spool(settings: Settings) -> Iterator[Finding]:
    from mailstack.spool.inspection import find_problem
    from mailstack.spool.shards import shard_folder, shards_on_disk

    folder = settings.spool_folder
    if not folder.is_dir():
        return  # the start makes it, or `_folders` has said what is there
    try:
        for shard in (0, *shards_on_disk(folder)):
            if (problem := find_problem(shard_folder(folder, shard))) is not None:
                yield "folder", problem
    except OSError as error:
        yield "folder", f"{error.filename or folder} cannot be read: {error.strerror}"


def _people(settings: Settings) -> Iterator[Finding]:
    from mailstack.directory.editing import list_accounts, list_domains

    path = settings.directory_file
    try:
        domains = {each.name for each in list_domains(path)}
        if not domains:
            yield "folder", f"{path} has no domain, so no mail is delivered here; add one: mailstack domain add NAME"
        names = {each.name for each in list_accounts(path)}
    except DirectoryError as error:
        hint = "" if path.exists() else " So does the first `mailstack domain add NAME`."
        yield "folder", f"{error}{hint}"
        return
    found = path.stat()
    if found.st_mode & (stat.S_IRWXO | stat.S_IRWXG):
        yield "folder", f"{path} holds password hashes and is open to others; run: chmod 600 {path}"
    if found.st_uid != path.parent.stat().st_uid:
        yield "folder", f"{path} belongs to another user than its folder; run: chown --reference={path.parent} {path}"
    for domain in settings.relay.all_addresses_of:
        if domain not in domains:
            yield "relay.all_addresses_of", f"{domain} is no domain of ours; add it: mailstack domain add {domain}"
    if settings.postmaster is not None and settings.postmaster not in names:
        yield "postmaster", f"there is no account {settings.postmaster}; add it: mailstack account add {settings.postmaster}"


def _policies(settings: Settings) -> Iterator[Finding]:
    from twisted.plugin import getPlugins

    import mailstack.plugins
    from mailstack.doors import IPolicyMaker
    from mailstack.policy.activation import ActivationError, activate

    options: Mapping[str, Any] = settings.policy.options
    try:
        activate(list(getPlugins(IPolicyMaker, mailstack.plugins)), settings.policy.use, options, _House(settings.hostname))
    except ActivationError as error:
        yield "policy.use", str(error)


@dataclass(frozen=True, slots=True)
class _House:
    """A house in which nobody lives: policies are made in it and never asked."""

    hostname: str

    async def is_local_domain(self, domain: str) -> bool:
        return False

    async def owns(self, account: str, address: Address) -> bool:
        return False


def _summary(path: Path, settings: Settings) -> str:
    from mailstack.directory.editing import list_accounts, list_domains

    listeners = ", ".join(f"{service.value} on {endpoint}" for service, endpoint in settings.listen.each())
    domains = ", ".join(each.name for each in list_domains(settings.directory_file))
    accounts = len(list_accounts(settings.directory_file))
    return (
        f"{path}: OK\n"
        f"  hostname   {settings.hostname}\n"
        f"  listens    {listeners or 'nowhere: [listen] is empty'}\n"
        f"  domains    {domains}\n"
        f"  accounts   {accounts}\n"
        f"  workers    {settings.worker_count}\n"
        f"  policies   {', '.join(settings.policy.use) or 'only those that are always active'}"
    )
