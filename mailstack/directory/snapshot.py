"""
Snapshot: one state of the directory in memory, and every question that can be asked about it.

It never changes. All names in it are in the form of `records.key_of`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mailstack.directory.database import Stamp, Watch, reading
from mailstack.directory.records import (
    ACCOUNTS,
    ANY,
    AccountRecord,
    AliasRecord,
    DirectoryError,
    DomainRecord,
    account_of,
    base_of,
    key_of,
    target,
)
from mailstack.mail.address import Address
from mailstack.mail.envelope import Account


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Domains, accounts and aliases, by name; `decoy_secret` is what the installation makes false salts of."""

    domains: Mapping[str, DomainRecord]
    accounts: Mapping[str, AccountRecord]
    aliases: Mapping[str, AliasRecord]
    decoy_secret: bytes = field(repr=False)

    def resolve(self, address: Address) -> Account | tuple[Address, ...] | None:
        """Return the account of exactly this address, or the targets of exactly this alias, or None."""
        key = key_of(address)
        if key in self.accounts:
            return Account(key)
        alias = self.aliases.get(key)
        return alias.targets if alias else None

    def owns(self, account: str, address: Address, delimiter: str) -> bool:
        """
        Say whether an enabled account may send as an address.

        It may as itself, as an alias that leads to it directly, as any subaddress of these, and, where the catch-all of a
        domain leads to it, as any address of that domain that is nothing else.
        """
        record = self.accounts.get(account)
        if record is None or not record.enabled:
            return False
        candidates = [address, base] if (base := base_of(address, delimiter)) else [address]
        for candidate in candidates:
            key = key_of(candidate)
            if key in self.accounts:
                return key == account
            if key in self.aliases:
                return self._leads_to(key, account, delimiter)
        return self._leads_to(key_of(Address(ANY, address.domain)), account, delimiter)

    def _leads_to(self, alias: str, account: str, delimiter: str) -> bool:
        record = self.aliases.get(alias)
        for each in record.targets if record else ():
            if key_of(each) == account:
                return True
            base = base_of(each, delimiter)
            if base is not None and key_of(each) not in self.accounts and key_of(base) == account:
                return True
        return False


def read_snapshot(path: Path, watch: Watch) -> tuple[Snapshot, Stamp]:
    """
    Read the whole file, with the stamp of exactly the state that was read. Blocks. A file of an earlier format is brought to
    the present one.

    Raises:  DirectoryError.
    """
    try:
        before = watch.stamp()
        with reading(path, upgrade=True) as connection:
            snapshot = _read(connection)
            after = watch.stamp()
    except OSError as error:
        raise DirectoryError(f"{path} cannot be read: {error.strerror}.") from error
    if (before.device, before.inode) != (after.device, after.inode):
        raise DirectoryError(f"{path} was replaced while it was read.")
    return snapshot, after


def _read(connection: sqlite3.Connection) -> Snapshot:
    domains = {name: DomainRecord(name, at) for name, at in connection.execute("SELECT name, created_at FROM domains")}
    accounts = {row[0]: account_of(row) for row in connection.execute(ACCOUNTS)}
    targets: dict[str, list[Address]] = {}
    for alias, address in connection.execute("SELECT alias, address FROM targets ORDER BY alias, ordinal"):
        targets.setdefault(alias, []).append(target(address))
    aliases = {name: AliasRecord(name, tuple(found)) for name, found in targets.items()}
    (secret,) = connection.execute("SELECT secret FROM decoy").fetchone()
    return Snapshot(domains, accounts, aliases, secret)
