"""What a session sees of its maildrop."""

from __future__ import annotations

import gc
from collections.abc import Sequence

from mailstack.retrieve.view import LINES_AT_ONCE, Listing, ListsInUse, MaildropView
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


class Remembered(Sequence):  # type: ignore[type-arg]  # of octets and unique ids
    """A listing that is an object of its own, and counts how often it is looked at."""

    def __init__(self, count: int, **more: int) -> None:
        self.items = [(10, b"u%d" % number) for number in range(count)]
        self.looks = 0
        self.__dict__ |= more

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # as Sequence's
        self.looks += 1
        return self.items[index]


def test_lists_are_written_once_for_a_listing_that_comes_again() -> None:
    lists, listing = ListsInUse(), Remembered(LINES_AT_ONCE + 1, total_octets=77)
    view = MaildropView(listing, lists.of(listing))
    assert view.octets == 77
    first = next(view.uid_lines())  # the client goes away in the middle
    assert first.startswith(b"1 u0\r\n2 u1\r\n")
    again = MaildropView(listing, lists.of(listing))
    assert listing.looks == 1
    whole, sizes = b"".join(again.uid_lines()), b"".join(again.size_lines())
    assert whole.startswith(first)
    assert whole.endswith(b"\r\n%d u%d\r\n" % (LINES_AT_ONCE + 1, LINES_AT_ONCE))
    assert sizes.count(b"\r\n") == LINES_AT_ONCE + 1
    looks = listing.looks
    assert b"".join(again.uid_lines()) == whole
    assert b"".join(again.size_lines()) == sizes
    assert listing.looks == looks


def test_marks_of_one_session_are_not_in_the_lists_of_the_next() -> None:
    lists, listing = ListsInUse(), Remembered(3)
    view = MaildropView(listing, lists.of(listing))
    assert view.octets == 30
    view.mark(1)
    assert b"".join(view.size_lines()) == b"1 10\r\n3 10\r\n"
    assert b"".join(view.uid_lines()) == b"1 u0\r\n3 u2\r\n"
    again = MaildropView(listing, lists.of(listing))
    assert again.octets == 30
    assert b"".join(again.size_lines()) == b"1 10\r\n2 10\r\n3 10\r\n"
    assert b"".join(again.uid_lines()) == b"1 u0\r\n2 u1\r\n3 u2\r\n"
    view.unmark_all()
    assert view.octets == 30


def test_lists_go_with_their_listing() -> None:
    lists, listing = ListsInUse(), Remembered(3)
    lists.of(listing)
    assert len(lists) == 1
    del listing
    gc.collect()
    assert len(lists) == 0


def test_a_plain_list_may_change_between_sessions() -> None:
    lists = ListsInUse()
    listing: Listing = [(10, b"a")]
    assert list(MaildropView(listing, lists.of(listing)).size_lines()) == [b"1 10\r\n"]
    listing[0] = (11, b"a")  # type: ignore[index]  # it is a list
    assert list(MaildropView(listing, lists.of(listing)).size_lines()) == [b"1 11\r\n"]
    assert len(lists) == 0
