"""What a session sees of its maildrop."""

from __future__ import annotations

from mailstack.retrieve.view import LINES_AT_ONCE, MaildropView
from mailstack.wire.pop3_commands import IS_DELETED, NO_SUCH_MESSAGE


def test_numbers_begin_at_one_and_end_with_the_last() -> None:
    view = MaildropView([(10, b"a"), (20, b"b")])
    assert [view.find(number) for number in (-1, 0, 1, 2, 3, 9_999_999_999)] == [
        NO_SUCH_MESSAGE, NO_SUCH_MESSAGE, 0, 1, NO_SUCH_MESSAGE, NO_SUCH_MESSAGE,
    ]  # fmt: skip


def test_a_marked_message_is_absent_and_keeps_its_number() -> None:
    view = MaildropView([(10, b"a"), (20, b"b"), (30, b"c")])
    view.mark(1)
    assert view.find(2) == IS_DELETED
    assert (view.count, view.octets, view.deleted) == (2, 40, {1})
    assert b"".join(view.size_lines()) == b"1 10\r\n3 30\r\n"
    assert b"".join(view.uid_lines()) == b"1 a\r\n3 c\r\n"
    view.unmark_all()
    assert (view.count, view.octets, view.deleted) == (3, 60, set())
    assert b"".join(view.size_lines()) == b"1 10\r\n2 20\r\n3 30\r\n"


def test_long_lists_come_in_bounded_parts() -> None:
    view = MaildropView([(1, b"u%d" % number) for number in range(5 * LINES_AT_ONCE + 1)])
    parts = list(view.uid_lines())
    assert len(parts) == 6
    assert b"".join(parts).count(b"\r\n") == 5 * LINES_AT_ONCE + 1
    assert max(map(len, list(view.size_lines()))) < 40_000


def test_an_empty_maildrop_has_empty_lists() -> None:
    view = MaildropView([])
    assert (view.count, view.octets, list(view.size_lines()), list(view.uid_lines())) == (0, 0, [], [])
