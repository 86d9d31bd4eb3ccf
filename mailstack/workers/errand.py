"""
The errand: what the parent tells a worker process over the line, as values, and as the JSON that goes over it.

The settings themselves are told, not where they stand: all workers have exactly what the parent has checked, whatever somebody
writes into the file meanwhile, and files that only root may look at are not looked at again.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Final

from mailstack.compose.place import Place
from mailstack.compose.secrets import Secrets
from mailstack.mail.envelope import Service
from mailstack.net.tls import Pem
from mailstack.settings import Settings

Told = dict[str, Any]

_TIMES: Final[Mapping[str, Any]] = {"datetime": datetime, "date": date, "time": time}
"""What TOML has and JSON has not; the options of a policy may have it."""


@dataclass(frozen=True, slots=True)
class Socket:
    """A listening socket that the worker was born with."""

    service: str
    host: str
    port: int
    descriptor: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a reload may change."""

    settings: Settings
    secrets: Secrets

    def tell(self) -> Told:
        """Write it."""
        pem, relay = self.secrets.pem, self.secrets.relay_pem
        return {
            "settings": _plain(self.settings.model_dump()),
            "certificate": None if pem is None else pem.certificate.decode("latin-1"),
            "key": None if pem is None else pem.key.decode("latin-1"),
            "authority": None if pem is None or pem.authority is None else pem.authority.decode("latin-1"),
            "revocations": None if pem is None or pem.revocations is None else pem.revocations.decode("latin-1"),
            "smarthost_password": self.secrets.smarthost_password,
            "srs": list(self.secrets.srs),
            "oauth_secret": self.secrets.oauth_secret,
            "relay_certificate": None if relay is None else relay.certificate.decode("latin-1"),
            "relay_key": None if relay is None else relay.key.decode("latin-1"),
            "login_passwords": dict(self.secrets.login_passwords),
        }

    @classmethod
    def told(cls, told: Told) -> Conditions:
        """Read it."""
        pem = relay = None
        if told["certificate"] is not None:
            authority, revocations = (
                told[each].encode("latin-1") if told[each] is not None else None for each in ("authority", "revocations")
            )
            pem = Pem(told["certificate"].encode("latin-1"), told["key"].encode("latin-1"), authority, revocations)
        if told["relay_certificate"] is not None:
            relay = Pem(told["relay_certificate"].encode("latin-1"), told["relay_key"].encode("latin-1"))
        secrets = Secrets(
            pem,
            told["smarthost_password"],
            login_passwords=told["login_passwords"],
            srs=tuple(told["srs"]),
            oauth_secret=told["oauth_secret"],
            relay_pem=relay,
        )
        return cls(Settings.model_validate(_rich(told["settings"])), secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """
    What a worker is to do.

    Shape:   `memory` is the descriptor of the shared counts, `memory_key` their key; with `is_log_shared` the worker writes
             lines to the log itself, else records to its parent.
    """

    place: Place
    conditions: Conditions
    sockets: tuple[Socket, ...]
    memory: int
    memory_key: bytes = field(repr=False)
    is_log_shared: bool

    def tell(self) -> Told:
        """Write it."""
        return {
            "place": asdict(self.place),
            "conditions": self.conditions.tell(),
            "sockets": [asdict(each) for each in self.sockets],
            "memory": self.memory,
            "memory_key": base64.b64encode(self.memory_key).decode(),
            "is_log_shared": self.is_log_shared,
        }

    @classmethod
    def told(cls, told: Told) -> Errand:
        """Read it."""
        return cls(
            place=Place(**told["place"]),
            conditions=Conditions.told(told["conditions"]),
            sockets=tuple(Socket(**each) for each in told["sockets"]),
            memory=told["memory"],
            memory_key=base64.b64decode(told["memory_key"]),
            is_log_shared=told["is_log_shared"],
        )


def service_of(socket: Socket) -> Service:
    """Return the service of a socket."""
    return Service(socket.service)


def _plain(value: Any) -> Any:
    """Return what JSON can write: paths as text, and what it does not know as an object that `_rich` knows."""
    if isinstance(value, dict):
        plain = {key: _plain(each) for key, each in value.items()}
        return {"{}": plain} if "{}" in plain or "time" in plain else plain
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    for name, kind in _TIMES.items():  # a datetime is a date, too, so it is asked for first
        if isinstance(value, kind):
            return {"time": name, "iso": value.isoformat()}
    return str(value) if isinstance(value, Path) else value


def _rich(value: Any) -> Any:
    if isinstance(value, dict):
        if "{}" in value:
            return {key: _rich(each) for key, each in value["{}"].items()}
        if "time" in value:
            return _TIMES[value["time"]].fromisoformat(value["iso"])
        return {key: _rich(each) for key, each in value.items()}
    return [_rich(each) for each in value] if isinstance(value, list) else value
