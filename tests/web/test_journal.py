"""The queue of events in its file: what a process that died at any moment leaves to the next one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_web.outbound.rules.journal import Eviction, Journal, decode, encode
from jitsu_web.outbound.rules.notices import Notice

ROOMY = 1 << 20


def notice(id: str, key: str = "vm", **data: str) -> Notice:
    return Notice(id, 1_700_000_000.0, "vm.ready", key, "www", data)


def pending(journal: Journal) -> dict[str, list[str]]:
    return {id: sorted(entry.pending) for id, entry in journal.entries.items() if entry.pending}


def test_the_next_process_has_what_was_not_delivered_in_its_order() -> None:
    journal, file = Journal(ROOMY), b""
    for id in ("a", "b", "c"):
        file += journal.record(notice(id, text="ü\n"), ["hook", "mqtt"])[0]
    file += journal.done("a", "hook") + journal.done("b", "hook") + journal.done("b", "mqtt")
    file += journal.bury("c", "mqtt", "410 Gone")
    later = Journal(ROOMY)
    assert later.load(file, ["hook", "mqtt"]) == len(file)
    assert pending(later) == {"a": ["mqtt"], "c": ["hook"]}
    assert later.entries["c"].dead == {"mqtt": "410 Gone"}
    assert later.entries["a"].notice == notice("a", text="ü\n")
    assert (later.damaged, later.needed_bytes) == (0, journal.needed_bytes)


def test_a_compacted_file_says_the_same_in_fewer_bytes() -> None:
    journal, file = Journal(ROOMY), b""
    for n in range(50):
        file += journal.record(notice(str(n)), ["hook"])[0]
        if n % 5:
            file += journal.done(str(n), "hook")
    file += journal.bury("0", "hook", "no")
    short, later = journal.compact(), Journal(ROOMY)
    assert len(short) < len(file) / 3
    later.load(short, ["hook"])
    assert later.entries == journal.entries
    assert [entry.notice.id for entry in later.dead()] == ["0"]


def test_a_full_queue_loses_the_oldest_and_says_to_whom() -> None:
    size = len(encode({"r": "event", "to": ["hook"], **vars(notice("00"))}))
    journal, file = Journal(3 * size), b""
    evicted = []
    for n in range(5):
        line, evictions = journal.record(notice(f"{n:02}", key=f"v{n}"[:2]), ["hook"])
        file += line
        evicted += evictions
    assert evicted == [Eviction("hook", "v0", "00"), Eviction("hook", "v1", "01")]
    assert (journal.lost, list(journal.entries)) == (2, ["02", "03", "04"])
    later = Journal(3 * size)
    later.load(file, ["hook"])
    assert list(later.entries) == ["02", "03", "04"], "what was evicted does not come back"


def test_dead_letters_go_before_events_that_may_still_be_delivered() -> None:
    size = len(encode({"r": "event", "to": ["hook"], **vars(notice("00"))}))
    journal = Journal(3 * size + size // 2)
    for id in ("00", "01", "02"):
        journal.record(notice(id), ["hook"])
    journal.bury("01", "hook", "410")
    _, evictions = journal.record(notice("03"), ["hook"])
    assert evictions == []
    assert list(journal.entries) == ["00", "02", "03"]


def test_an_event_that_alone_is_larger_than_the_queue_stays_until_the_next_one() -> None:
    journal = Journal(10)
    assert journal.record(notice("a"), ["hook"])[1] == []
    assert journal.record(notice("b"), ["hook"])[1] == [Eviction("hook", "vm", "a")]


def test_a_target_that_is_no_longer_configured_gets_nothing_and_holds_nothing() -> None:
    journal = Journal(ROOMY)
    file = journal.record(notice("a"), ["old"])[0] + journal.record(notice("b"), ["old", "hook"])[0]
    later = Journal(ROOMY)
    later.load(file, ["hook"])
    assert pending(later) == {"b": ["hook"]}


def test_an_operator_sends_a_dead_letter_again_or_discards_it() -> None:
    journal = Journal(ROOMY)
    file = journal.record(notice("a"), ["hook"])[0] + journal.record(notice("b"), ["hook"])[0]
    assert journal.again("a", "hook") == journal.discard("a") == b""
    for id in ("a", "b"):
        file += journal.bury(id, "hook", "410")
    file += journal.again("a", "hook") + journal.discard("b")
    assert pending(journal) == {"a": ["hook"]}
    assert journal.dead() == []
    later = Journal(ROOMY)
    later.load(file, ["hook"])
    assert later.entries == journal.entries


@pytest.mark.parametrize("line", [b"", b"00000000 {}", b"zz", encode({"r": "event"})[:-3], b"\xff" * 40])
def test_a_damaged_line_is_nothing(line: bytes) -> None:
    assert decode(line) is None


@pytest.mark.parametrize(
    "record", [{"r": "event", "id": 1}, {"r": "done"}, {"r": "what", "id": "a"}, {}, {"r": "event", "to": 3}]
)
def test_a_record_that_makes_no_sense_is_counted_and_left_out(record: dict[str, object]) -> None:
    journal = Journal(ROOMY)
    journal.load(encode(record), ["hook"])
    assert (journal.damaged, journal.entries) == (1, {})


@given(st.integers(0, 2**32), st.data())
def test_g5_a_file_that_ends_anywhere_has_every_record_that_was_whole(seed: int, data: st.DataObject) -> None:
    chance, journal, lines = random.Random(seed), Journal(2000), []
    snapshots: list[dict[str, list[str]]] = [{}]
    for n in range(40):
        what = chance.random()
        known = list(journal.entries)
        if what < 0.5 or not known:
            line, _ = journal.record(notice(f"{n}", key=f"v{n % 3}"), ["hook", "mqtt"])
        elif what < 0.8:
            line = journal.done(chance.choice(known), chance.choice(["hook", "mqtt"]))
        else:
            line = journal.bury(chance.choice(known), chance.choice(["hook", "mqtt"]), "no")
        lines.append(line)
        snapshots.append(pending(journal))
    file = b"".join(lines)
    cut = data.draw(st.integers(0, len(file)))
    later = Journal(2000)
    whole = later.load(file[:cut], ["hook", "mqtt"])
    assert whole <= cut
    ends, total = [0], 0
    for line in lines:
        total += len(line)
        ends.append(total)
    if whole in ends:  # a record and what it evicts are several lines, but each is whole
        assert pending(later) == snapshots[max(n for n, end in enumerate(ends) if end == whole)]
    assert later.damaged == 0
