"""Statistics that wait for their commit, and their journal, on a disk in memory and in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.messages import Record
from jitsu_protocol.model.errors import Invalid, Refused, Unavailable
from jitsu_protocol.model.vm import to_tree
from jitsu_store.rules import recording
from jitsu_store.rules.statistics import PendingStatistics, Recorded, line, read
from jitsu_store.rules.tree import LeafTree
from jitsu_store.wires.journal import JOURNAL, JournalFile, StatisticsKeeper
from tests.support.clock import VirtualClock
from tests.support.store_memory import Inline, MemoryDisk, MemoryFiles
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Mapping

STARTS = "jitsu/stats/v/total_starts"

entries = st.dictionaries(st.text(max_size=8), st.tuples(st.text(max_size=8), st.text(max_size=5)), max_size=4)


@given(st.lists(entries, max_size=5), st.data())
def test_a_journal_that_is_cut_anywhere_gives_all_that_was_complete(
    lines: list[dict[str, Recorded]], data: st.DataObject
) -> None:
    written = [line(each) for each in lines]
    whole = b"".join(written)
    cut = data.draw(st.integers(0, len(whole)))
    expected: dict[str, Recorded] = {}
    length = 0
    for each, text in zip(lines, written, strict=True):
        length += len(text)
        if length <= cut:
            expected |= each
    assert read(whole[:cut]) == expected
    assert read(whole[:cut] + b"\0" * 20 + b"\n" + line({"x": ("1", "vmd")})) == expected


def test_a_value_that_is_recorded_while_the_one_before_is_committed_still_waits() -> None:
    statistics = PendingStatistics()
    statistics.record({"a": "1", "b": "1"}, "vmd")
    committing = statistics.pending()
    statistics.record({"a": "2"}, "vmd")
    statistics.committed(committing)
    assert statistics.pending() == {"a": ("2", "vmd")}
    assert statistics.unwritten() == {"a": ("2", "vmd")}
    assert statistics.unwritten() == {}
    statistics.not_written({"a": ("2", "vmd")})
    statistics.record({"a": "3"}, "vmd")
    assert statistics.unwritten() == {"a": ("3", "vmd")}


async def test_statistics_are_committed_once_in_the_interval_and_when_the_store_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commits: list[tuple[float, dict[str, str]]] = []
    clock, stopped, real_sleep = VirtualClock(), asyncio.Event(), asyncio.sleep

    async def commit(values: Mapping[str, str], services: str) -> None:
        commits.append((clock.now(), dict(values)))

    async def sleep(seconds: float) -> None:
        if seconds:
            clock.advance(seconds)
        if seconds and clock.now() > 200:
            stopped.set()
            await asyncio.Event().wait()
        if seconds and clock.now() <= 150:
            keeper.statistics.record({STARTS: f"{clock.now():g}"}, "vmd")
        await real_sleep(0)

    keeper = StatisticsKeeper(JournalFile(MemoryFiles(MemoryDisk())), Inline(), clock, commit, 60.0)
    monkeypatch.setattr("asyncio.sleep", sleep)
    task = asyncio.create_task(keeper.run())
    await stopped.wait()
    task.cancel()
    assert [each[0] for each in commits] == [60.0, 120.0, 180.0]
    assert commits[-1][1] == {STARTS: "150"}
    keeper.statistics.record({STARTS: "151"}, "vmd")
    await keeper.stop()
    assert commits[-1][1] == {STARTS: "151"}


async def test_statistics_that_are_refused_cost_the_others_nothing_and_do_not_stay() -> None:
    committed: dict[str, str] = {}

    async def commit(values: Mapping[str, str], services: str) -> None:
        if any(path.startswith("jitsu/stats/bad/") for path in values):
            raise Invalid("refused: too long")
        committed.update(values)

    journal = JournalFile(MemoryFiles(MemoryDisk()))
    keeper = StatisticsKeeper(journal, Inline(), VirtualClock(), commit, 60.0)
    good = {"jitsu/stats/a/total_starts": "1", "jitsu/stats/b/total_starts": "2"}
    keeper.statistics.record({**good, "jitsu/stats/bad/total_starts": "3"}, "vmd")
    await keeper.flush()
    assert (committed, len(keeper.statistics)) == (good, 0)
    assert journal.read() == {}


async def test_a_journal_that_cannot_be_written_keeps_its_values_for_the_next_attempt() -> None:
    disk, commits = MemoryDisk(), list[dict[str, str]]()

    async def commit(values: Mapping[str, str], services: str) -> None:
        if not commits:
            commits.append({})
            raise Unavailable("the disk is full")
        commits.append(dict(values))

    keeper = StatisticsKeeper(JournalFile(MemoryFiles(disk)), Inline(), VirtualClock(), commit, 60.0)
    keeper.statistics.record({STARTS: "1"}, "vmd")
    disk.failures.append(OSError("no space left on device"))
    await keeper.journal()
    assert JOURNAL not in disk.files
    await keeper.journal()
    assert read(disk.files[JOURNAL]) == {STARTS: ("1", "vmd")}
    await keeper.try_to_flush()
    assert len(keeper.statistics) == 1, "they go on waiting"
    await keeper.flush()
    assert (commits[-1], len(keeper.statistics), JOURNAL in disk.files) == ({STARTS: "1"}, 0, False)


async def test_a_keeper_that_starts_goes_on_with_the_journal_and_ignores_one_that_cannot_be_read() -> None:
    async def commit(values: Mapping[str, str], services: str) -> None:
        raise AssertionError

    disk = MemoryDisk()
    disk.files[JOURNAL] = line({STARTS: ("1", "vmd")}) + b"half a li"
    keeper = StatisticsKeeper(JournalFile(MemoryFiles(disk)), Inline(), VirtualClock(), commit, 60.0)
    assert keeper.statistics.pending() == {STARTS: ("1", "vmd")}
    disk.failures.append(OSError("input/output error"))
    keeper = StatisticsKeeper(JournalFile(MemoryFiles(disk)), Inline(), VirtualClock(), commit, 60.0)
    assert keeper.statistics.pending() == {STARTS: ("1", "vmd")}


async def test_a_long_journal_is_rewritten_with_the_latest_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitsu_store.wires.journal.MAX_JOURNAL_BYTES", 200)

    async def commit(values: Mapping[str, str], services: str) -> None:
        raise AssertionError

    disk = MemoryDisk()
    keeper = StatisticsKeeper(JournalFile(MemoryFiles(disk)), Inline(), VirtualClock(), commit, 60.0)
    for number in range(10):
        keeper.statistics.record({STARTS: str(number)}, "vmd")
        await keeper.journal()
    assert len(disk.files[JOURNAL]) <= 200
    assert read(disk.files[JOURNAL]) == {STARTS: ("9", "vmd")}


def test_what_waits_is_found_below_each_path() -> None:
    statistics = PendingStatistics()
    statistics.record({"jitsu/stats/a/x": "1", "jitsu/stats/a/y": "2", "jitsu/stats/b/x": "3"}, "vmd")
    assert set(statistics.names_below("jitsu/stats")) == {"a", "b"}
    assert statistics.below("jitsu/stats/a") == {"jitsu/stats/a/x": "1", "jitsu/stats/a/y": "2"}
    assert len(statistics.below("")) == 3
    assert (statistics.below("jitsu/vm"), statistics.get("jitsu/stats/c/x")) == ({}, None)
    pending = statistics.pending()
    statistics.committed({path: pending[path] for path in ("jitsu/stats/a/x", "jitsu/stats/a/y")})
    assert set(statistics.names_below("jitsu/stats")) == {"b"}
    assert set(statistics.names_below("jitsu/stats/a")) == set()


def test_g9_only_so_many_statistics_are_kept_and_those_that_are_there_may_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recording, "MAX_STATISTICS_NAMES", 2)
    monkeypatch.setattr(recording, "MAX_STATISTICS_OF_NOBODY", 1)
    monkeypatch.setattr(recording, "MAX_RECORDED", 6)
    vm = make_vm()
    held, statistics = LeafTree(to_tree(vm) | {"jitsu/stats/gone/total_starts": "1"}), PendingStatistics()

    def record(service: str, *paths: str) -> set[str]:
        recording.record(Record(values=dict.fromkeys(paths, "2"), service=service), statistics, held)
        return set(statistics.pending())

    names = [f"jitsu/stats/{vm.uuid}/dns/n{number}.test/total_requests" for number in range(4)]
    assert record("reaper", *names) == set(names[:2])
    assert record("vmd", "jitsu/stats/gone/total_starts") == {*names[:2], "jitsu/stats/gone/total_starts"}
    assert record("vmd", "jitsu/stats/made/total_starts", "jitsu/stats/up/total_starts") == {
        *names[:2],
        "jitsu/stats/gone/total_starts",
    }, "the VM itself and one that is gone are all that may have statistics"
    with pytest.raises(Refused, match="too many statistics wait"):
        record("reaper", *(f"jitsu/stats/{vm.uuid}/dns/m{number}.test/last_ttl" for number in range(4)))
    with pytest.raises(Refused, match="vmd writes only its own statistics"):
        record("vmd", "jitsu/vm/v/ip")
