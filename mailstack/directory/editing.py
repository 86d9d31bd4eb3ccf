"""
Editing: every change that an operator can make, each in one transaction.

A change that would leave something half is refused: a domain with accounts, an account to which aliases lead, an alias to
nowhere. `force` says what to do instead. Every function blocks, and raises DirectoryError with what happened, why, and what to
do; then nothing was changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailstack.directory.database import changing, reading
from mailstack.directory.records import (
    ACCOUNTS,
    ANY,
    AccountRecord,
    AliasRecord,
    DirectoryError,
    DomainRecord,
    account_name,
    account_of,
    alias_name,
    base_of,
    domain_name,
    key_of,
    target,
)
from mailstack.mail.address import Address

MAX_TARGETS = 1_000


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed along with the thing itself, by name; `changed_aliases` lost a target and have others left."""

    accounts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    changed_aliases: tuple[str, ...] = ()


# ---- domains ---------------------------------------------------------------------------------------------------------


def add_domain(path: Path, domain: str, created_at: float) -> str:
    """Add a domain and return its name."""
    name = domain_name(domain)
    with changing(path) as connection:
        if _has(connection, "domains", name):
            raise DirectoryError(f"The domain {name} is already there.")
        connection.execute("INSERT INTO domains (name, created_at) VALUES (?, ?)", (name, created_at))
    return name


def list_domains(path: Path) -> list[DomainRecord]:
    """Return all domains, with the numbers of their accounts and aliases."""
    with reading(path) as connection:
        rows = connection.execute(
            "SELECT name, created_at, (SELECT count(*) FROM accounts WHERE domain = domains.name),"
            " (SELECT count(*) FROM aliases WHERE domain = domains.name) FROM domains ORDER BY name"
        )
        return [DomainRecord(*row) for row in rows]


def remove_domain(path: Path, domain: str, *, force: bool = False) -> Removed:
    """
    Remove a domain; with `force` also its accounts and aliases.

    Aliases of other domains that lead into it stay: the domain may live on elsewhere, and they then lead there.
    """
    name = domain_name(domain)
    with changing(path) as connection:
        _need(connection, "domains", name, "domain")
        accounts = _names(connection, "SELECT name FROM accounts WHERE domain = ? ORDER BY name", name)
        aliases = _names(connection, "SELECT name FROM aliases WHERE domain = ? ORDER BY name", name)
        if (accounts or aliases) and not force:
            raise DirectoryError(
                f"The domain {name} has {_counted(accounts, 'account')} and {_counted(aliases, 'alias')}. "
                "Remove them first, or say --force to remove them with it."
            )
        connection.execute("DELETE FROM aliases WHERE domain = ?", (name,))
        connection.execute("DELETE FROM accounts WHERE domain = ?", (name,))
        connection.execute("DELETE FROM domains WHERE name = ?", (name,))
    return Removed(accounts, aliases)


# ---- accounts --------------------------------------------------------------------------------------------------------


def check_new_account(path: Path, account: str) -> str:
    """Return the name of an account that could be added now; so that nobody is asked for a password in vain."""
    name = account_name(account)
    with reading(path) as connection:
        _check_new_account(connection, name)
    return name


def add_account(path: Path, account: str, password_hash: str, created_at: float, scram: str | None = None) -> str:
    """Add an account, enabled, and return its name; `scram` as in its record."""
    name = account_name(account)
    with changing(path) as connection:
        _check_new_account(connection, name)
        connection.execute(
            "INSERT INTO accounts (name, domain, password, enabled, created_at, scram) VALUES (?, ?, ?, 1, ?, ?)",
            (name, _domain_of(name), password_hash, created_at, scram),
        )
    return name


def find_account(path: Path, account: str) -> AccountRecord:
    """Return an account."""
    name = account_name(account)
    with reading(path) as connection:
        _need(connection, "accounts", name, "account")
        row = connection.execute(f"{ACCOUNTS} WHERE name = ?", (name,)).fetchone()
        return account_of(row)


def list_accounts(path: Path) -> list[AccountRecord]:
    """Return all accounts."""
    with reading(path) as connection:
        rows = connection.execute(f"{ACCOUNTS} ORDER BY domain, name")
        return [account_of(row) for row in rows]


def set_password(path: Path, account: str, password_hash: str, scram: str | None = None) -> str:
    """Change the password of an account, with what is kept of it for SCRAM, and return its name."""
    return _update_account(path, account, "UPDATE accounts SET password = ?, scram = ? WHERE name = ?", password_hash, scram)


def set_enabled(path: Path, account: str, enabled: bool) -> str:
    """Let an account log in and send, or not; its mail is kept either way. Return its name."""
    return _update_account(path, account, "UPDATE accounts SET enabled = ? WHERE name = ?", int(enabled))


def remove_account(path: Path, account: str, *, force: bool = False, delimiter: str = "+") -> Removed:
    """
    Remove an account; with `force` also from the aliases that lead to it, and those of them that would lead nowhere.

    Its maildir is not touched.
    """
    name = account_name(account)
    with changing(path) as connection:
        _need(connection, "accounts", name, "account")
        leading = _targets_to(connection, name, delimiter)
        if leading and not force:
            aliases = ", ".join(sorted({alias for alias, _ in leading}))
            raise DirectoryError(
                f"Aliases lead to {name}: {aliases}. Change them first, or say --force to take the account out of them."
            )
        connection.executemany("DELETE FROM targets WHERE alias = ? AND address = ?", leading)
        emptied: list[str] = []
        changed: list[str] = []
        for alias in sorted({alias for alias, _ in leading}):
            is_empty = not connection.execute("SELECT 1 FROM targets WHERE alias = ?", (alias,)).fetchone()
            (emptied if is_empty else changed).append(alias)
        connection.executemany("DELETE FROM aliases WHERE name = ?", [(alias,) for alias in emptied])
        connection.execute("DELETE FROM accounts WHERE name = ?", (name,))
    return Removed((), tuple(emptied), tuple(changed))


# ---- aliases ---------------------------------------------------------------------------------------------------------


def add_alias(
    path: Path,
    alias: str,
    targets: Sequence[str],
    *,
    replace: bool = False,
    delimiter: str = "+",
    is_taken: Callable[[Address], bool] = lambda address: False,
) -> AliasRecord:
    """
    Add an alias; with `replace` it may exist and gets these targets instead of its own.

    A target in a domain of ours must exist: an account, another alias, a subaddress of these, or whatever a catch-all takes; or
    it is taken although the directory does not know it.
    """
    name = alias_name(alias)
    wanted = list(dict.fromkeys(target(each) for each in targets))
    if not 0 < len(wanted) <= MAX_TARGETS:
        raise DirectoryError(f"An alias leads to 1 to {MAX_TARGETS} addresses, not to {len(wanted)}.")
    with changing(path) as connection:
        _need(connection, "domains", _domain_of(name), "domain")
        if _has(connection, "accounts", name):
            raise DirectoryError(f"{name} is an account, and an alias of the same address would hide it.")
        if _has(connection, "aliases", name):
            if not replace:
                raise DirectoryError(f"The alias {name} is already there. Say --replace to give it other targets.")
            connection.execute("DELETE FROM aliases WHERE name = ?", (name,))
        connection.execute("INSERT INTO aliases (name, domain) VALUES (?, ?)", (name, _domain_of(name)))
        connection.executemany(
            "INSERT INTO targets (alias, ordinal, address) VALUES (?, ?, ?)",
            [(name, ordinal, str(each)) for ordinal, each in enumerate(wanted)],
        )
        for each in wanted:
            if not is_taken(each):
                _check_target(connection, name, each, delimiter)
    return AliasRecord(name, tuple(wanted))


def list_aliases(path: Path) -> list[AliasRecord]:
    """Return all aliases."""
    found: dict[str, list[Address]] = {}
    with reading(path) as connection:
        rows = connection.execute(
            "SELECT name, address FROM aliases JOIN targets ON alias = name ORDER BY domain, name, ordinal"
        )
        for name, address in rows:
            found.setdefault(name, []).append(target(address))
    return [AliasRecord(name, tuple(targets)) for name, targets in found.items()]


def remove_alias(path: Path, alias: str) -> str:
    """Remove an alias and return its name; not while other aliases lead to it."""
    name = alias_name(alias)
    with changing(path) as connection:
        _need(connection, "aliases", name, "alias")
        leading = [found for found, _ in _targets_to(connection, name, "") if found != name]
        if leading:
            raise DirectoryError(f"Aliases lead to {name}: {', '.join(sorted(leading))}. Change or remove them first.")
        connection.execute("DELETE FROM aliases WHERE name = ?", (name,))
    return name


# ---- what they share -------------------------------------------------------------------------------------------------


def _domain_of(name: str) -> str:
    return name.rpartition("@")[2]


def _has(connection: sqlite3.Connection, table: str, name: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {table} WHERE name = ?", (name,)).fetchone() is not None  # noqa: S608 (ours)


def _need(connection: sqlite3.Connection, table: str, name: str, what: str) -> None:
    if not _has(connection, table, name):
        raise DirectoryError(f"There is no {what} {name}. `mailstack {what} list` shows which there are.")


def _names(connection: sqlite3.Connection, query: str, *parameters: str) -> tuple[str, ...]:
    return tuple(name for (name,) in connection.execute(query, parameters))


def _check_new_account(connection: sqlite3.Connection, name: str) -> None:
    domain = _domain_of(name)
    if not _has(connection, "domains", domain):
        raise DirectoryError(f"{domain} is not a domain of ours. Add it first: mailstack domain add {domain}")
    if _has(connection, "accounts", name):
        raise DirectoryError(f"The account {name} is already there. `mailstack account passwd {name}` changes its password.")
    if _has(connection, "aliases", name):
        raise DirectoryError(
            f"{name} is an alias, which the account would hide. Remove it first: mailstack alias remove {name}"
        )


def _update_account(path: Path, account: str, statement: str, *values: str | int | None) -> str:
    name = account_name(account)
    with changing(path) as connection:
        _need(connection, "accounts", name, "account")
        connection.execute(statement, (*values, name))
    return name


def _targets_to(connection: sqlite3.Connection, name: str, delimiter: str) -> list[tuple[str, str]]:
    """Return (alias, target) of every target that is this name or a subaddress of it, in letters of any case."""
    found = []
    for alias, text in connection.execute("SELECT alias, address FROM targets ORDER BY alias, ordinal"):
        address = target(text)
        base = base_of(address, delimiter)
        if key_of(address) == name or (base is not None and key_of(base) == name):
            found.append((alias, text))
    return found


def _check_target(connection: sqlite3.Connection, alias: str, address: Address, delimiter: str) -> None:
    if not _has(connection, "domains", address.domain):
        return
    candidates = [address, base] if (base := base_of(address, delimiter)) else [address]
    for each in (*candidates, Address(ANY, address.domain)):
        name = key_of(each)
        if _has(connection, "accounts", name):
            return
        if _has(connection, "aliases", name):
            _check_circle(connection, alias, name)
            return
    raise DirectoryError(f"{address} does not exist here, so {alias} would lead nowhere. Add the account or alias first.")


def _check_circle(connection: sqlite3.Connection, alias: str, start: str) -> None:
    waiting, seen = [start], set()
    while waiting:
        name = waiting.pop()
        if name == alias:
            raise DirectoryError(f"{alias} would lead back to itself.")
        if name not in seen:
            seen.add(name)
            texts = _names(connection, "SELECT address FROM targets WHERE alias = ?", name)
            waiting += [key_of(target(text)) for text in texts]


def _counted(names: Sequence[str], what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{len(names)} {what if len(names) == 1 else plural}"
