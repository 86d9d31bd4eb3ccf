"""Commits that meet hard links, or what another program put in the place of a message."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mailstack.store.maildrop import Maildrop
from mailstack.store.names import delivery_key, delivery_name

OCTETS = b"Subject: kept\r\n\r\nText.\r\n"


@pytest.fixture
def young(tmp_path: Path) -> Path:
    """A message of ours that has just been delivered."""
    for folder in ("new", "cur", "tmp"):
        (tmp_path / "box" / folder).mkdir(parents=True)
    path = tmp_path / "box" / "new" / delivery_name("0123456789abc", 0, time.time(), "host.example", len(OCTETS))
    path.write_bytes(OCTETS)
    return path


def tombstone_of(message: Path) -> Path:
    return message.parent.parent / "tmp" / f"{delivery_key(message.name)}.deleted"


def test_a_second_name_of_a_deleted_message_keeps_its_octets(young: Path, tmp_path: Path) -> None:
    # An IMAP server's COPY, and a snapshot by `cp -al`, are hard links.
    copy = tmp_path / "copy"
    os.link(young, copy)
    drop = Maildrop.open(tmp_path / "box", now=time.time)

    assert drop.commit({0}) == 0
    assert copy.read_bytes() == OCTETS
    assert not young.exists()
    assert tombstone_of(young).exists()
    drop.close()


def test_a_symlink_in_a_message_s_place_goes_and_its_target_stays(young: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(OCTETS)
    drop = Maildrop.open(tmp_path / "box", now=time.time)
    young.unlink()
    young.symlink_to(target)

    assert drop.commit({0}) == 0
    assert target.read_bytes() == OCTETS
    assert not young.is_symlink()
    assert not tombstone_of(young).is_symlink()
    drop.close()


def test_a_symlink_that_comes_between_look_and_rename_is_not_followed(young: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(OCTETS)

    class Swapping:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def rename(self, path: str, to: str) -> None:
            Path(path).unlink()
            Path(path).symlink_to(target)
            Path(path).rename(to)

    drop = Maildrop.open(tmp_path / "box", now=time.time, disk=Swapping())  # type: ignore[arg-type]

    assert drop.commit({0}) == 0
    assert target.read_bytes() == OCTETS
    drop.close()


def test_a_folder_in_a_message_s_place_is_not_removed_and_said_so(young: Path, tmp_path: Path) -> None:
    drop = Maildrop.open(tmp_path / "box", now=time.time)
    young.unlink()
    young.mkdir()
    (young / "inside").write_bytes(OCTETS)

    assert drop.commit({0}) == 1
    assert (young / "inside").read_bytes() == OCTETS
    drop.close()


def test_a_pipe_in_a_message_s_place_is_removed_without_waiting_for_a_reader(young: Path, tmp_path: Path) -> None:
    drop = Maildrop.open(tmp_path / "box", now=time.time)
    young.unlink()
    os.mkfifo(young)

    assert drop.commit({0}) == 0
    assert not young.exists()
    assert not tombstone_of(young).exists()
    drop.close()
