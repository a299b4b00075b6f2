"""A connection whose kind has a fault: it is reported and opened again, and the other connections go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import pytest
from structlog.testing import capture_logs

from jitsu_protocol.machine import IllegalEvent
from jitsu_protocol.model.errors import SetupFault, Unavailable
from jitsu_vmd.hypervisor import Guest
from jitsu_vmd.rules.connection import (
    AWAY_S,
    LIMIT_S,
    STABLE_S,
    Broke,
    ConnectionMachine,
    ConnectionState,
    FollowEvents,
    OpenConnection,
    WasAway,
    WasOpened,
)
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires.hypervisors import Hypervisors
from tests.support.clock import VirtualClock
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from jitsu_protocol.model.vm import VM

SOUND_VM, FRAIL_VM = make_vm("sound", "127.0.1.1"), make_vm("frail", "127.0.1.2", hypervisor="frail")


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    with capture_logs() as entries:
        yield entries


# --- the machine ---


def broken(*, times: int = 1) -> tuple[ConnectionMachine, float]:
    """Return a machine that was open and has broken so often in a row, and the time."""
    machine, now = ConnectionMachine(), 0.0
    machine.handle(WasOpened(), now)
    for n in range(times):
        assert machine.handle(Broke("KeyError"), now) == []
        now = machine.deadline() or 0.0
        if n + 1 < times:
            assert machine.tick(now) == [OpenConnection()]
            machine.handle(WasOpened(), now)
    return machine, now


def test_a_connection_is_followed_as_soon_as_it_is_open() -> None:
    machine = ConnectionMachine()
    assert machine.away
    assert machine.handle(WasOpened(), 0.0) == [FollowEvents(has_missed=False)]
    assert not machine.away
    assert machine.deadline() is None


def test_a_connection_that_broke_is_opened_again_and_all_its_vms_are_looked_at() -> None:
    machine, now = broken()
    assert (machine.state, machine.fault, machine.faults) == (ConnectionState.WAITING, "KeyError", 1)
    assert machine.tick(now - 0.1) == []
    assert machine.tick(now) == [OpenConnection()]
    assert machine.fault, "it is reported until it is open"
    assert machine.handle(WasOpened(), now) == [FollowEvents(has_missed=True)]
    assert not machine.fault


def test_each_fault_in_a_row_makes_the_wait_twice_as_long_up_to_a_limit() -> None:
    waits = []
    machine, now = ConnectionMachine(), 0.0
    for _ in range(12):
        machine.handle(Broke("KeyError"), now)
        waits.append((machine.deadline() or 0.0) - now)
        now = machine.deadline() or 0.0
        machine.tick(now)
    assert waits == [1, 2, 4, 8, 16, 32, *[LIMIT_S] * 6]


def test_a_connection_that_was_followed_for_a_minute_is_opened_again_soon() -> None:
    machine, now = broken(times=6)
    machine.tick(now)
    machine.handle(WasOpened(), now)
    machine.handle(Broke("KeyError"), now + STABLE_S)
    assert machine.deadline() == now + STABLE_S + 1.0


def test_a_hypervisor_that_is_away_has_no_fault_and_is_tried_every_second() -> None:
    machine = ConnectionMachine()
    for n in range(10):
        machine.handle(WasAway("no libvirtd"), float(n))
        assert (machine.deadline(), machine.fault, machine.faults) == (n + AWAY_S, "", 0)
        machine.tick(n + AWAY_S)


def test_a_fault_lasts_until_the_connection_is_open_even_if_the_hypervisor_is_away_in_between() -> None:
    machine, now = broken()
    machine.tick(now)
    machine.handle(WasAway("no libvirtd"), now)
    assert machine.fault == "KeyError"


def test_a_connection_that_waits_takes_no_news_from_the_one_that_has_ended() -> None:
    machine, now = broken()
    with pytest.raises(IllegalEvent):
        machine.handle(WasOpened(), now)


# --- with the code of a kind ---


class Played:
    """A kind whose event loop raises when a test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.opens = 0
        self.open_error: Exception | None = None
        self.raises: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.changed: Callable[[str], None] = lambda _: None

    async def open(self) -> None:
        self.opens += 1
        if self.open_error is not None:
            raise self.open_error

    async def run(self, changed: Callable[[str], None]) -> None:
        self.changed = changed
        if (error := await self.raises.get()) is not None:
            raise error

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        return {vm.uuid: Guest(GuestState.RUNNING) for vm in vms}


class Suite:
    """Two connections of one vmd, on a clock that stands still."""

    def __init__(self) -> None:
        self.sound, self.frail = Played("sound"), Played("frail")
        self.clock = VirtualClock()
        self.tasks: list[asyncio.Task[None]] = []
        backends = {"": self.sound, "frail": self.frail}
        self.hypervisors = Hypervisors(cast("Any", backends), self.spawn, self.clock)
        self.hints: list[str] = []

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.tasks.append(asyncio.ensure_future(work))
        return self.tasks[-1]

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        for task in self.tasks:
            assert not task.done() or task.exception() is None, "vmd would end"

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await self.settle()


@pytest.fixture
async def suite() -> Suite:
    made = Suite()
    await made.hypervisors.open()
    made.hypervisors.run(made.hints.append)
    await made.settle()
    await made.hypervisors.guests([SOUND_VM, FRAIL_VM])
    return made


async def test_an_exception_in_the_event_loop_of_one_kind_ends_neither_vmd_nor_the_other(
    suite: Suite, logged: list[Any]
) -> None:
    suite.frail.raises.put_nowait(KeyError("metadata"))
    await suite.settle()
    trouble = "it is opened again after a fault: KeyError: 'metadata'"
    assert suite.hypervisors.notes() == ["hypervisor sound", f"hypervisor frail: frail does not answer: {trouble}"]
    with pytest.raises(Unavailable, match="frail: its hypervisor does not answer: it is opened again after a fault"):
        suite.hypervisors.check_answers(FRAIL_VM)
    guests, heard = await suite.hypervisors.guests([SOUND_VM, FRAIL_VM])
    assert heard == guests.keys() == {SOUND_VM.uuid}
    suite.hypervisors.check_answers(SOUND_VM)
    assert suite.hypervisors.faults() == {("",): 0.0, ("frail",): 1.0}
    assert [(each["event"], each["log_level"]) for each in logged] == [
        ("hypervisor call failed unexpectedly", "error"),
        ("a connection is broken", "error"),
    ]
    suite.sound.changed("of-sound")
    assert suite.hints == ["of-sound"]


async def test_a_connection_that_broke_is_opened_again_and_its_vms_are_seen(suite: Suite) -> None:
    suite.frail.raises.put_nowait(KeyError("metadata"))
    await suite.settle()
    assert suite.frail.opens == 1
    await suite.pass_time(1.0)
    assert (suite.frail.opens, suite.sound.opens) == (2, 1)
    assert suite.hints == [""], "what happened in the meantime was not heard"
    assert (await suite.hypervisors.guests([FRAIL_VM]))[1] == {FRAIL_VM.uuid}
    suite.hypervisors.check_answers(FRAIL_VM)
    suite.frail.changed("again")
    assert suite.hints == ["", "again"]


@pytest.mark.parametrize("error", [SetupFault("token_file: gone"), AttributeError("session")])
async def test_an_opening_that_fails_after_a_fault_is_tried_again_and_ends_nothing(
    suite: Suite, error: Exception
) -> None:
    suite.frail.open_error = error
    suite.frail.raises.put_nowait(KeyError("metadata"))
    await suite.settle()
    for _ in range(4):
        await suite.pass_time(60.0)
    assert suite.frail.opens == 5
    suite.frail.open_error = None
    await suite.pass_time(60.0)
    assert not suite.hypervisors.connections["frail"].trouble


async def test_an_event_loop_that_returns_is_a_fault_too(suite: Suite) -> None:
    suite.frail.raises.put_nowait(None)
    await suite.settle()
    assert "it no longer reports what happens" in suite.hypervisors.connections["frail"].trouble


async def test_an_event_loop_that_finds_its_hypervisor_away_is_begun_again_a_second_later(suite: Suite) -> None:
    suite.frail.raises.put_nowait(Unavailable("no xenstored"))
    await suite.settle()
    assert not suite.hypervisors.connections["frail"].machine.fault
    await suite.pass_time(AWAY_S)
    assert suite.frail.opens == 2
    assert suite.hints == [""]


async def test_a_fault_while_vmd_starts_delays_it_but_does_not_end_it() -> None:
    suite = Suite()
    suite.frail.open_error = ValueError("version")
    opening = asyncio.ensure_future(suite.hypervisors.open())
    await suite.settle()
    assert not opening.done()
    suite.frail.open_error = None
    await suite.pass_time(1.0)
    await opening


async def test_what_can_never_be_set_up_ends_the_start() -> None:
    suite = Suite()
    suite.frail.open_error = SetupFault("aiohttp is not installed")
    with pytest.raises(SetupFault, match="aiohttp"):
        await suite.hypervisors.open()
