"""
`mailstack init`: makes an installation in a folder.

    on disk                                    meaning               what `init` does with it
    -----------------------------------------  --------------------  ---------------------------------------
    nothing, or an empty folder                free                  makes everything
    mailstack.toml and directory.db in it      ours, whole           says so, changes nothing
    anything else in it                        somebody else's, or   refuses; a person must decide
                                               ours, half made

mailstack.toml is written last: where it is, everything else is too. What fails in the middle is taken back.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from mailstack.console.asking import Refused, json_option, show_result
from mailstack.console.demo import DEMO_FILE
from mailstack.directory.records import DirectoryError, domain_name

CONFIG_FILE: Final = "mailstack.toml"
DIRECTORY_FILE: Final = "directory.db"
SRS_FILE: Final = "srs.secret"
PORTS: Final = {"smtp": 25, "submission": 587, "submissions": 465, "pop3": 110, "pop3s": 995}
DEMO_BASE_PORT: Final = 2000
DEMO_DOMAIN: Final = "example.test"
_CHARACTERS: Final = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # without l, o, I, O, 0, 1
_PASSWORD_LENGTH: Final = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be made."""

    folder: Path
    hostname: str
    domain: str
    base_port: int
    is_demo: bool

    @property
    def ports(self) -> dict[str, int]:
        """The port of each service."""
        return {name: self.base_port + port for name, port in PORTS.items()}


@click.command(
    short_help="Make an installation.",
    epilog="Examples: mailstack init /srv/mail --domain example.org, or mailstack init var --demo",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--hostname", help="The name of this mail server. Default: mail.DOMAIN")
@click.option("--domain", help="The domain whose mail is delivered here. Default: HOSTNAME less its first label.")
@click.option("--demo", "is_demo", is_flag=True, help="Two accounts with random passwords, and ports that need no rights.")
@click.option(
    "--base-port",
    type=click.IntRange(0, 65535 - max(PORTS.values())),
    help=f"Listen on N+25, N+587, N+465, N+110 and N+995. Default: 0, or {DEMO_BASE_PORT} with --demo.",
    metavar="N",
)
@json_option
def init(folder: Path, hostname: str | None, domain: str | None, is_demo: bool, base_port: int | None, as_json: bool) -> None:
    """
    Make an installation in DIR: configuration, certificates, folders and directory.

    It listens on loopback only, until the configuration says otherwise.
    """
    if _is_ours(folder):
        text = f"{folder} already holds an installation; nothing was changed."
        show_result(as_json, text, result="unchanged", config=str((folder / CONFIG_FILE).absolute()))
        return
    plan = _plan(folder, hostname, domain, is_demo=is_demo, base_port=base_port)
    try:
        _make(plan)
    except DirectoryError as error:
        raise Refused(f"nothing was made. {error}") from error
    except OSError as error:
        raise Refused(f"nothing was made. {error.filename or folder}: {error.strerror or error}.") from error
    show_result(
        as_json,
        _next_steps(plan),
        result="made",
        config=str((folder / CONFIG_FILE).absolute()),
        hostname=plan.hostname,
        domain=plan.domain,
        ports=plan.ports,
    )


def _is_ours(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and (folder / DIRECTORY_FILE).is_file()


def _plan(folder: Path, hostname: str | None, domain: str | None, *, is_demo: bool, base_port: int | None) -> Plan:
    if folder.exists() and not folder.is_dir():
        raise Refused(f"{folder} is not a folder; nothing was made. Choose another place.")
    if folder.is_dir() and (found := sorted(each.name for each in folder.iterdir())):
        raise Refused(
            f"{folder} is not empty (it holds {', '.join(found[:3])}{' …' if len(found) > 3 else ''}) and holds no whole "
            "installation; nothing was made. Choose another place, or empty it."
        )
    if hostname is None and domain is None:
        if not is_demo:
            raise click.UsageError("Say --domain DOMAIN or --hostname NAME (or --demo, to try it out).")
        domain = DEMO_DOMAIN
    try:
        hostname = domain_name(hostname if hostname is not None else f"mail.{domain}")
        domain = domain_name(domain if domain is not None else hostname.partition(".")[2] or hostname)
    except DirectoryError as error:
        raise Refused(f"nothing was made. {error}") from error
    base = base_port if base_port is not None else DEMO_BASE_PORT if is_demo else 0
    return Plan(folder.absolute(), hostname, domain, base, is_demo)


@contextlib.contextmanager
def _taken_back(folder: Path) -> Iterator[None]:
    """Make the folder, which is missing or empty, and spool/ in it; on failure leave it as it was."""
    existed = folder.is_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    # Of two that come at the same time one fails here, and so does not take back what the other makes.
    (folder / "spool").mkdir(mode=0o700)
    try:
        yield
    except BaseException:
        for each in folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)
        if not existed:
            folder.rmdir()
        raise


def _make(plan: Plan) -> None:
    from mailstack.directory.database import create
    from mailstack.directory.editing import add_domain
    from mailstack.store.folders import prepare_root

    folder, now = plan.folder, time.time()
    with _taken_back(folder):
        (folder / "mail").mkdir(mode=0o700)
        prepare_root(folder / "mail")
        _make_certificates(plan, now)
        _write(folder / SRS_FILE, f"{secrets.token_urlsafe(24)}\n".encode(), mode=0o600)
        create(folder / DIRECTORY_FILE)
        add_domain(folder / DIRECTORY_FILE, plan.domain, now)
        if plan.is_demo:
            _make_demo(plan, now)
        _write(folder / CONFIG_FILE, _configuration(plan).encode(), mode=0o600)
        _sync(folder)


def _make_certificates(plan: Plan, now: float) -> None:
    from mailstack.console.certificates import make_authority, make_server

    folder = plan.folder / "tls"
    folder.mkdir(mode=0o700)
    authority = make_authority(plan.hostname, now)
    server = make_server(authority, plan.hostname, now)
    _write(folder / "ca.pem", authority.certificate_pem(), mode=0o644)
    _write(folder / "ca.key", authority.key_pem(), mode=0o600)
    _write(folder / "server.pem", server.certificate_pem(), mode=0o644)
    _write(folder / "server.key", server.key_pem(), mode=0o600)
    _sync(folder)


def _make_demo(plan: Plan, now: float) -> None:
    from mailstack.directory.editing import add_account
    from mailstack.directory.passwords import Argon2Hasher, new_scram_keys

    hasher = Argon2Hasher()
    accounts = []
    for name in ("alice", "bob"):
        password = "".join(secrets.choice(_CHARACTERS) for _ in range(_PASSWORD_LENGTH))
        kept, scram = hasher.hash(password.encode()), new_scram_keys(password.encode())
        address = add_account(plan.folder / DIRECTORY_FILE, f"{name}@{plan.domain}", kept, now, scram)
        accounts.append({"address": address, "password": password})
    facts = {
        "hostname": plan.hostname,
        "accounts": accounts,
        "ports": plan.ports,
        "ca": str(plan.folder / "tls" / "ca.pem"),
    }
    _write(plan.folder / DEMO_FILE, (json.dumps(facts, indent=2) + "\n").encode(), mode=0o600)


def _configuration(plan: Plan) -> str:
    from mailstack.console.annotated import annotate

    values: dict[str, Any] = {
        "hostname": plan.hostname,
        "folder": ".",
        "tls.certificate": "tls/server.pem",
        "tls.key": "tls/server.key",
        "srs.domain": plan.domain,
        "srs.secret_file": SRS_FILE,
    }
    values |= {f"listen.{name}": [f"127.0.0.1:{port}"] for name, port in plan.ports.items()}
    if plan.is_demo:
        values["postmaster"] = f"alice@{plan.domain}"
    notes = {
        "listen": "Made by `mailstack init`: on loopback only. To open a service to everybody write, for example,\n"
        f'smtp = ["0.0.0.0:{plan.ports["smtp"]}", "[::]:{plan.ports["smtp"]}"]',
        "tls": "Made by `mailstack init`, signed by its own authority, tls/ca.pem: for trying out. "
        f"For the public get a certificate for {plan.hostname} that everybody trusts, from Let's Encrypt for instance.",
    }
    return annotate(values, notes)


def _next_steps(plan: Plan) -> str:
    config = plan.folder / CONFIG_FILE
    made = f"{plan.hostname} is ready in {plan.folder}, for mail of {plan.domain}."
    run = f"  twistd -n mailstack --config {config}"
    if plan.is_demo:
        return f"{made}\nRun it:\n{run}\nThe lines to try it out:\n  mailstack demo {plan.folder}"
    rights = " (ports below 1024 need the right to bind them)" if plan.base_port < 1000 else ""
    return (
        f"{made}\nIt listens on loopback only; [listen] in {config} opens it.\nNext:\n"
        f"  mailstack account add somebody@{plan.domain} --config {config}\n"
        f"  mailstack check --config {config}\n{run}{rights}"
    )


def _write(path: Path, octets: bytes, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor)
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
