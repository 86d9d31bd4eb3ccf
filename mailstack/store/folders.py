"""
Where the mail of an account lies: `{root}/{domain}/{local-part}`, each a maildir.

The name of a folder is made from the name of an account in the directory and from nothing else, and only of characters that
mean nothing to a file system. Whatever is not such a name has no folder, so nothing can be written outside the root.

The root holds a marker, made once by the operator's `init`. Without it the root is taken for an empty mount point, and nothing
is delivered or made in it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mailstack.mail.address import DOMAIN_OCTETS, LOCAL_PART_OCTETS

MARKER_NAME: Final = ".mailstack"
_MARKER_TEXT: Final = b"Mail of mailstack. Without this file nothing is delivered here.\n"
_COMPONENT: Final = re.compile(r"[a-z0-9_+=-][a-z0-9._+=-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class AccountFolder:
    """
    The folder of one account, within the mail root.

    Raises:  ValueError: a part could mean anything but a plain name.
    """

    domain: str
    local_part: str

    def __post_init__(self) -> None:
        for part, limit_octets in ((self.domain, DOMAIN_OCTETS), (self.local_part, LOCAL_PART_OCTETS)):
            if not _COMPONENT.fullmatch(part) or ".." in part or len(part) > limit_octets:
                raise ValueError(f"no folder for the account {self.local_part[:100]!r} at {self.domain[:100]!r}")


class MailFolder:
    """The mail root, and the folders of accounts in it. Touches no disk but in `known`."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def folder_of(self, account: str) -> AccountFolder:
        """
        Name the folder of an account, `local-part@domain`.

        Raises:  ValueError: the account's name is not one from which a folder can be made.
        """
        local_part, _, domain = account.partition("@")
        return AccountFolder(domain, local_part)

    def path_of(self, account: str) -> Path:
        """
        Return the path of an account's maildir.

        Raises:  ValueError: as `folder_of`.
        """
        folder = self.folder_of(account)
        return self.root / folder.domain / folder.local_part

    def known(self) -> list[AccountFolder]:
        """List the folders that exist; what is not named like one is left out. Blocks."""
        found = []
        for domain in sorted(self.root.iterdir()):
            if domain.is_dir() and not domain.is_symlink():
                for account in sorted(domain.iterdir()):
                    with suppress(ValueError):  # not made by us
                        found.append(AccountFolder(domain.name, account.name))
        return found


def prepare_root(path: Path | str) -> None:
    """
    Make the mail root and its marker, durably; what exists stays as it is. Blocks.

    Raises:  OSError: it cannot be made, or is not a folder.
    """
    root = Path(path)
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync(folder.parent)
    try:
        marker = os.open(root / MARKER_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        marker = os.open(root / MARKER_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    else:
        os.write(marker, _MARKER_TEXT)
    try:
        os.fsync(marker)
    finally:
        os.close(marker)
    _sync(root)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
