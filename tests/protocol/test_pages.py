"""Snapshots and histories of the store, read in pages."""

from __future__ import annotations

from jitsu_protocol.messages import ChangesList, Leaves
from jitsu_protocol.wire.pages import PAGE_LEAVES, CommitPages, VmPages


def leaves(number: int, upto: str) -> Leaves:
    return Leaves(leaves={}, commit="c", epoch="e", number=number, upto=upto)


def test_a_snapshot_is_asked_for_page_by_page_and_stands_at_its_first_page() -> None:
    pages, asked = VmPages(), []
    replies = [leaves(7, "b"), leaves(9, "d"), leaves(9, "")]
    while (request := pages.request()) is not None:
        asked.append((request.prefix, request.after, request.limit))
        pages.received(replies.pop(0))
    assert asked == [("jitsu/vm", after, PAGE_LEAVES) for after in ("", "b", "d")]
    assert pages.first is not None
    assert pages.first.number == 7


def test_a_page_that_does_not_come_is_asked_for_again() -> None:
    pages = VmPages()
    pages.received(leaves(1, "b"))
    assert pages.request() == pages.request()


def test_commits_are_read_from_the_last_page_on_and_the_position_is_kept_when_no_page_comes() -> None:
    pages = CommitPages("master", "jitsu/vm", "c1")
    assert pages.request().since == "c1"
    assert pages.received(ChangesList(commits=[], upto="c100", more=True))
    assert pages.request() == pages.request()
    assert not pages.received(ChangesList(commits=[], upto="c120", more=False))
    assert (pages.request().since, pages.request().branch, pages.request().prefix) == ("c120", "master", "jitsu/vm")
