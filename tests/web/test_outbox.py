"""Events on their way out, with targets that the test plays and a queue in a real file."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_web.outbound.rules.delivery import Delivered, Failed
from jitsu_web.outbound.rules.journal import Journal
from jitsu_web.outbound.rules.notices import Draft
from jitsu_web.outbound.wires.outbox import LOOK_S, LOST_NOTE_S, EventOutbox
from jitsu_web.outbound.wires.queue_file import NAME
from jitsu_web.rules.events import VmEvent
from jitsu_web.wires.hub import Hub
from tests.support.world import PlayedWorld, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from jitsu_web.outbound.rules.notices import Notice
    from jitsu_web.rules.events import WebEvent

KIB_OF_QUEUE = 64


class PlayedTarget:
    """Takes events as the test says: at once, never, or not at all."""

    def __init__(self, name: str = "hook") -> None:
        self.name = name
        self.taken: list[Notice] = []
        self.attempts = 0
        self.outcome: Delivered | Failed = Delivered()
        self.answers = asyncio.Event()
        self.answers.set()

    def wants(self, kind: str) -> bool:
        return kind != "vm.off"

    def note(self, event: WebEvent) -> None:
        pass

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def send(self, notice: Notice) -> Delivered | Failed:
        self.attempts += 1
        await self.answers.wait()
        if isinstance(self.outcome, Delivered):
            self.taken.append(notice)
        return self.outcome

    def subjects(self) -> list[str]:
        return [each.subject for each in self.taken]


class Ended(Exception):
    """The process of the test is gone."""


@asynccontextmanager
async def running(
    directory: Path, *targets: PlayedTarget, **settings: str
) -> AsyncIterator[tuple[PlayedWorld, EventOutbox]]:
    """Run an outbox until the block ends, as abruptly as kill -9 would end it."""
    try:
        async with asyncio.TaskGroup() as group:
            world = PlayedWorld("web", group, events__queue=str(KIB_OF_QUEUE), **settings)
            outbox = EventOutbox(world, directory, targets, list)
            outbox.start(Hub("e"))
            await settled()
            yield world, outbox
            raise Ended
    except* Ended:
        pass


def draft(n: int, key: str = "vm", kind: str = "vm.ready", **data: Any) -> Draft:
    return Draft(kind, key, f"{n}", data)


async def test_events_are_delivered_in_order_and_only_to_targets_that_want_them(tmp_path: Path) -> None:
    one, other = PlayedTarget("one"), PlayedTarget("other")
    async with running(tmp_path, one, other) as (world, outbox):
        for n in range(3):
            outbox.record(draft(n))
        outbox.record(draft(9, kind="vm.off"))
        await world.pass_time(1)
        assert one.subjects() == other.subjects() == ["0", "1", "2"]
        assert [each.id for each in one.taken] == [each.id for each in other.taken], "an event has one id"
        assert outbox.journal.entries == {}


async def test_the_next_process_delivers_what_this_one_had_recorded(tmp_path: Path) -> None:
    target = PlayedTarget()
    target.outcome = Failed("connection refused")
    async with running(tmp_path, target) as (_, outbox):
        for n in range(3):
            outbox.record(draft(n, key=f"v{n}"))
        await settled()
    assert target.taken == []
    again = PlayedTarget()
    async with running(tmp_path, again) as (_, outbox):
        await settled()
        assert sorted(again.subjects()) == ["0", "1", "2"]
        assert outbox.journal.entries == {}
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


async def test_half_a_line_that_a_dead_process_left_harms_no_later_event(tmp_path: Path) -> None:
    silent = PlayedTarget()
    silent.answers.clear()
    async with running(tmp_path, silent) as (_, outbox):
        outbox.record(draft(0))
    with (tmp_path / NAME).open("ab") as file:
        file.write(b'0123abcd {"r":"eve')
    async with running(tmp_path, silent) as (_, outbox):
        outbox.record(draft(1))
    target = PlayedTarget()
    async with running(tmp_path, target) as (_, outbox):
        await settled()
        assert target.subjects() == ["0", "1"]
        assert outbox.notes() == []


async def test_a_target_that_never_answers_delays_no_other_and_no_reader(tmp_path: Path) -> None:
    stuck, well = PlayedTarget("stuck"), PlayedTarget("well")
    stuck.answers.clear()
    async with running(tmp_path, stuck, well) as (world, outbox):
        for n in range(100):
            outbox.record(draft(n, key=f"v{n}"))
        await world.pass_time(1)
        assert len(well.taken) == 100
        assert stuck.attempts == outbox.routes["stuck"].target.sending == 4
        assert outbox.routes["stuck"].target.waiting() == 100


async def test_a_target_that_is_back_gets_everything_in_order(tmp_path: Path) -> None:
    target = PlayedTarget()
    target.outcome = Failed("503")
    async with running(tmp_path, target) as (world, outbox):
        for n in range(10):
            outbox.record(draft(n))
        await world.pass_time(20)
        assert target.attempts == 5, "after 0, 1, 3, 7 and 15 seconds"
        target.outcome = Delivered()
        await world.pass_time(20)
        assert target.subjects() == [f"{n}" for n in range(10)]


async def test_an_event_that_nobody_takes_becomes_a_dead_letter_that_an_operator_sends_again(tmp_path: Path) -> None:
    target = PlayedTarget()
    target.outcome = Failed("HTTP 410", is_final=True)
    async with running(tmp_path, target) as (world, outbox):
        outbox.record(draft(0))
        outbox.record(draft(1))
        await world.pass_time(1)
        first, second = outbox.dead()
        assert first.dead == {"hook": "HTTP 410"}
        assert outbox.notes() == ["events could not be delivered: 2; GET /api/v1/events/dead lists them"]
        assert outbox.discard(second.notice.id)
        target.outcome = Delivered()
        assert outbox.again(first.notice.id)
        assert not outbox.again("ffff")
        assert not outbox.discard("ffff")
        await world.pass_time(1)
        assert target.subjects() == ["0"]
        assert (outbox.dead(), outbox.notes()) == ([], [])


async def test_an_event_is_given_up_when_its_next_attempt_would_be_too_late(tmp_path: Path) -> None:
    target = PlayedTarget()
    target.outcome = Failed("down")
    async with running(tmp_path, target, events__retry_for="60s") as (world, outbox):
        outbox.record(draft(0))
        await world.pass_time(20)
        assert outbox.dead() == []
        await world.pass_time(20)
        assert [entry.notice.subject for entry in outbox.dead()] == ["0"]


async def test_a_full_queue_loses_the_oldest_says_so_and_stays_within_its_size(tmp_path: Path) -> None:
    target = PlayedTarget()
    target.answers.clear()
    async with running(tmp_path, target) as (world, outbox):
        for n in range(500):
            outbox.record(draft(n, key=f"v{n}", text="x" * 300))
            assert (tmp_path / NAME).stat().st_size <= KIB_OF_QUEUE * 1024
        await world.pass_time(LOOK_S + 1)
        lost = outbox.journal.lost
        assert lost > 300
        assert outbox.notes() == [f"events were dropped: {lost}, because events.queue is full"]
        assert world.metrics.registry.get_sample_value("jitsu_web_events_lost_total") == lost
        newest = list(outbox.journal.entries.values())[-2:]
        assert [entry.notice.kind for entry in newest] == ["vm.ready", "events.lost"]
        assert newest[0].notice.subject == "499"
        await world.pass_time(LOST_NOTE_S / 2)
        kinds = [entry.notice.kind for entry in outbox.journal.entries.values()]
        assert kinds.count("events.lost") == 1
        file = Journal(1 << 30)
        file.load((tmp_path / NAME).read_bytes(), ["hook"])
        assert list(file.entries) == list(outbox.journal.entries)


async def test_a_vm_that_is_up_for_long_is_an_event(tmp_path: Path) -> None:
    target = PlayedTarget()
    async with running(tmp_path, target, events__up_longer_than="1h") as (world, outbox):
        outbox.take(VmEvent({"uuid": "u", "name": "www", "state": "ready", "uptime_s": 3590.0}, ""))
        await world.pass_time(LOOK_S + 11)
        assert [each.kind for each in target.taken] == ["vm.up-long"]


async def test_without_targets_there_is_no_file_and_nothing_is_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, outbox):
        outbox.record(draft(0))
        assert outbox.journal.entries == {}
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_cannot_be_written_is_reported_and_events_are_delivered_all_the_same(tmp_path: Path) -> None:
    target = PlayedTarget()
    async with running(tmp_path, target) as (_, outbox):
        (tmp_path / "events.new").mkdir()  # in the way of a file that is to be written again
        for n in range(400):
            outbox.record(draft(n, text="x" * 200))
            await settled()
        assert len(target.taken) == 400
        assert any("could not be recorded" in note for note in outbox.notes())


@pytest.mark.parametrize("damage", [b"garbage\n", b"\x00" * 100 + b"\n"])
async def test_a_damaged_line_is_reported_and_the_others_are_used(tmp_path: Path, damage: bytes) -> None:
    silent = PlayedTarget()
    silent.answers.clear()
    async with running(tmp_path, silent) as (_, outbox):
        outbox.record(draft(0))
    path = tmp_path / NAME
    path.write_bytes(damage + path.read_bytes())
    target = PlayedTarget()
    async with running(tmp_path, target) as (_, outbox):
        await settled()
        assert target.subjects() == ["0"]
        assert outbox.notes() == ["events could not be read: 1 lines of the queue are damaged"]
