"""Waiting for a guest's port, on a clock that the test moves and with connections that it plays."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from jitsu_vmd.wires import probe
from jitsu_vmd.wires.probe import MAX_PAUSE_S, MAX_PAUSE_WHILE_ASKED_S, MIN_PAUSE_S, pause_s, wait_for_port
from tests.support.clock import VirtualClock
from tests.support.vms import make_vm
from tests.support.world import settled

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from jitsu_protocol.model.vm import VM


class Connection:
    """The end of a connection that a guest has accepted."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Guest:
    """Plays the guest and the network to it."""

    def __init__(self) -> None:
        self.clock = VirtualClock(1000.0)
        self.attempts: list[tuple[str, int, float]] = []
        self.listens: set[str] = set()
        self.lost: set[str] = set()
        """Addresses from which nothing comes back."""
        self.unanswered: set[str] = set()
        """Of these, the ones that nobody even says to have."""
        self.forgotten: list[str] = []
        self.connection = Connection()

    async def connect(self, address: str, port: int) -> tuple[None, Connection]:
        self.attempts.append((address, port, self.clock.now() - 1000.0))
        if address in self.lost:
            await asyncio.Event().wait()
        if address not in self.listens:
            raise ConnectionRefusedError
        return None, self.connection

    def forget_unanswered(self, address: IPv4Address | IPv6Address) -> bool:
        self.forgotten.append(str(address))
        return str(address) in self.unanswered

    async def waits(self, vm: VM, seconds: float) -> bool:
        """Say whether the port is found open within so many seconds."""
        until = self.clock.now() + seconds
        waiting = asyncio.ensure_future(wait_for_port(vm, self.clock))
        await settled()
        while not waiting.done() and self.clock.deadline() <= until:
            self.clock.advance(self.clock.deadline() - self.clock.now())
            await settled()
        is_open = waiting.done()
        waiting.cancel()
        await settled()
        return is_open


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    made = Guest()
    monkeypatch.setattr("asyncio.open_connection", made.connect)
    monkeypatch.setattr(probe, "forget_unanswered", made.forget_unanswered)
    for name in ("FIRST_ATTEMPT_S", "ATTEMPT_SHARE"):  # an attempt is given up at once, not after real milliseconds
        monkeypatch.setattr(probe, name, 0.0)
    return made


async def test_a_port_that_refuses_is_tried_again_until_it_accepts(guest: Guest) -> None:
    vm = make_vm(wait_for_port="80", max_wait="4")
    assert not await guest.waits(vm, 1.0)
    assert {attempt[:2] for attempt in guest.attempts} == {("127.0.1.1", 80)}
    times = [attempt[2] for attempt in guest.attempts]
    assert max(later - earlier for earlier, later in pairwise(times)) <= MAX_PAUSE_WHILE_ASKED_S + 1e-9
    guest.listens.add("127.0.1.1")
    assert await guest.waits(vm, 0.0)
    assert guest.connection.is_closed


async def test_any_address_of_the_vm_will_do(guest: Guest) -> None:
    two = tuple(map(ip_address, ("127.0.1.1", "127.0.1.2")))
    vm = make_vm(wait_for_port="443").model_copy(update={"addresses": two})
    guest.listens.add("127.0.1.2")
    assert await guest.waits(vm, 0.0)
    assert [attempt[:2] for attempt in guest.attempts] == [("127.0.1.1", 443), ("127.0.1.2", 443)]


async def test_an_attempt_that_is_lost_is_given_up_and_the_next_one_is_another(guest: Guest) -> None:
    vm = make_vm(wait_for_port="80")
    guest.lost.add("127.0.1.1")
    assert not await guest.waits(vm, 0.1)
    assert len(guest.attempts) == len(guest.forgotten) > 5
    guest.lost.clear()
    guest.listens.add("127.0.1.1")
    assert await guest.waits(vm, 0.0)


@pytest.mark.parametrize("has_address", [False, True])
async def test_a_guest_that_is_there_but_slow_has_longer_for_an_attempt_than_one_that_is_not_there(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, has_address: bool
) -> None:
    monkeypatch.setattr(probe, "attempt_s", lambda _: 3600.0)
    guest.lost.add("127.0.1.1")
    if not has_address:
        guest.unanswered.add("127.0.1.1")
    assert not await guest.waits(make_vm(wait_for_port="80"), 0.1)
    assert (len(guest.attempts) == 1) is has_address


def test_the_pause_grows_with_the_wait_and_stays_short_while_a_query_may_be_waiting() -> None:
    assert pause_s(0.0, 4.0) == MIN_PAUSE_S
    assert pause_s(0.2, 4.0) == pytest.approx(0.01)
    assert pause_s(3.9, 4.0) == MAX_PAUSE_WHILE_ASKED_S
    assert pause_s(4.0, 4.0) == MAX_PAUSE_S
    assert pause_s(60.0, 4.0) == MAX_PAUSE_S
