"""Folders of accounts: a plain name below the root, or none."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailstack.store.folders import MARKER_NAME, AccountFolder, MailFolder, prepare_root

ROOT = MailFolder("/mail")
PIECES = st.sampled_from(
    ["a", "Z", "0", ".", "..", "/", "\\", "\0", "\n", "@", "-", "+", "=", "_", "~", "é", "\u017f", " ", "%2e", "x" * 64]
)


@pytest.mark.parametrize(
    "account",
    [
        "alice@example.org",
        "a.b-c_d+e=f@x-y.example.org",
        "0@0",
        "-rf@example.org",
        "con@example.org",
        "x" * 64 + "@" + "y" * 255,
        "a.@b",
    ],
)
def test_plain_names(account: str) -> None:
    local_part, _, domain = account.partition("@")
    assert ROOT.path_of(account) == Path("/mail") / domain / local_part
    assert ROOT.folder_of(account) == AccountFolder(domain, local_part)


@pytest.mark.parametrize(
    "account",
    [
        "",
        "@",
        "alice",
        "alice@",
        "@example.org",
        "alice@example.org@example.org",
        "../../etc/passwd@example.org",
        "..@example.org",
        ".@example.org",
        "alice@..",
        "alice@.",
        "alice@../x",
        "/etc/x@example.org",
        "a/b@example.org",
        "a\\b@example.org",
        "a\0b@example.org",
        "a@b\0",
        "~root@example.org",
        ".hidden@example.org",
        "alice@.example.org",
        "a..b@example.org",
        "alice@example..org",
        "Alice@example.org",
        "alice@Example.org",
        "alice@example.org\n",
        "alice\n@example.org",
        " alice@example.org",
        "al ice@example.org",
        "x" * 65 + "@example.org",
        "x" * 300 + "@example.org",
        "alice@" + "y" * 256,
        "álice@example.org",
        "alice@exämple.org",
        "\u017f@example.org",
        "al\u0131ce@example.org",
        "٣@example.org",
        '"alice"@example.org',
        "alice@[127.0.0.1]",
        "=?x?q?=40=3e=00?=foo@example.org",
        "alice%example.org@example.org",
        "a:b@example.org",
        "a,S=1@example.org",
    ],
)
def test_everything_else_has_no_folder(account: str) -> None:
    with pytest.raises(ValueError, match="no folder"):
        ROOT.path_of(account)
    with pytest.raises(ValueError, match="no folder"):
        ROOT.folder_of(account)


@given(
    st.one_of(
        st.text(),
        st.lists(PIECES).map("".join),
        st.tuples(st.lists(PIECES), st.lists(PIECES)).map(lambda t: "".join(t[0]) + "@" + "".join(t[1])),
    )
)
@example("a@b")
def test_never_outside_the_root(account: str) -> None:
    try:
        path = ROOT.path_of(account)
    except ValueError:
        return
    assert os.path.normpath(path) == str(path)
    assert path.parent.parent == Path("/mail")
    assert re.fullmatch(r"[a-z0-9._+=@-]+", account)
    assert f"{path.name}@{path.parent.name}" == account


@given(st.text(), st.text())
def test_the_folder_itself_checks_its_parts(domain: str, local_part: str) -> None:
    try:
        folder = AccountFolder(domain, local_part)
    except ValueError:
        return
    assert ROOT.path_of(f"{folder.local_part}@{folder.domain}") == Path("/mail") / domain / local_part


class TestPrepareRoot:
    def test_makes_the_root_and_its_marker(self, tmp_path: Path) -> None:
        root = tmp_path / "var" / "mail"
        prepare_root(root)
        assert root.stat().st_mode & 0o7777 == 0o700
        assert [path.name for path in root.iterdir()] == [MARKER_NAME]
        assert b"mailstack" in (root / MARKER_NAME).read_bytes()
        assert MailFolder(root).known() == []

    def test_leaves_what_exists(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        tmp_path.chmod(0o750)
        prepare_root(str(tmp_path))
        (tmp_path / MARKER_NAME).write_bytes(b"changed")
        prepare_root(str(tmp_path))
        assert tmp_path.stat().st_mode & 0o7777 == 0o750
        assert (tmp_path / MARKER_NAME).read_bytes() == b"changed"
        assert (tmp_path / "file").exists()

    def test_a_file_is_no_root(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(NotADirectoryError):
            prepare_root(tmp_path / "file")

    def test_a_marker_that_leads_elsewhere_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / MARKER_NAME).symlink_to(tmp_path / "victim")
        with pytest.raises(OSError, match="ymbolic"):
            prepare_root(tmp_path)
        assert not (tmp_path / "victim").exists()


def test_known_folders(tmp_path: Path) -> None:
    prepare_root(tmp_path)
    for folder in ("example.org/bob", "example.org/alice", "a.example/x", ".hidden/x", "example.org/.hidden", "Upper/x"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("example.org")
    (tmp_path / "file").write_bytes(b"")
    assert MailFolder(tmp_path).known() == [
        AccountFolder("a.example", "x"),
        AccountFolder("example.org", "alice"),
        AccountFolder("example.org", "bob"),
    ]
