"""The simulation itself: one seed makes one course of events, nothing waits, and a broken promise is found."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.clock import SYSTEM_CLOCK
from tests.simulation.simulation import Simulation
from tests.simulation.suite import SimulatedSuite, vm

if TYPE_CHECKING:
    from tests.simulation.simulation import Life

QUIET_S = 1000.0
MAX_CPU_S = 3.0
"""Measured: 0.8 s. The rest is for a machine that is shared, and for coverage."""
COURSE = """
from tests.simulation.test_random import course
print(course({seed}))
"""


@pytest.mark.exhaustive
def test_a_thousand_quiet_seconds_take_one() -> None:
    with SimulatedSuite([vm("www", ttl=10), vm("other", ttl=60)]) as suite:
        suite.ask("www")
        begun = time.process_time()
        suite.run(QUIET_S)
        assert time.process_time() - begun < MAX_CPU_S


@pytest.mark.exhaustive
def test_a_seed_makes_one_course_of_events_whatever_the_order_of_hashes() -> None:
    courses = set()
    for hashes in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        made = subprocess.run(
            [sys.executable, "-c", COURSE.format(seed=5)], env=environment, capture_output=True, text=True, check=True
        )
        courses.add(made.stdout)
    assert len(courses) == 1


def test_a_stop_within_the_ttl_of_an_answer_is_found() -> None:
    with SimulatedSuite([vm("www", ttl=60)], broken_is_expected=True) as suite:
        suite.ask("www")
        suite.run(1.0)
        suite.ask("www")
        suite.run(59.0)
        assert not suite.broken
        suite.guests[""].stop(suite.vm("www"), StopMode.DESTROY)
        assert [each.what for each in suite.broken] == [
            "G3: www is stopped 1.000 s before the TTL of an answer is over",
            "G3: www is stopped 60.750 s before its idle_timeout is over",
        ]


def test_no_module_of_ours_reads_this_machines_clock() -> None:
    with Simulation() as simulation:
        assert SYSTEM_CLOCK.now() == simulation.now
        simulation.run(5.0)
        assert SYSTEM_CLOCK.now() == simulation.now
        for name, module in list(sys.modules.items()):
            if name.startswith("jitsu"):
                assert not {id(time), id(time.time), id(time.monotonic)} & {*map(id, vars(module).values())}, name
    assert abs(SYSTEM_CLOCK.now() - time.monotonic()) < 10.0


def test_a_process_that_is_killed_cleans_up_nothing() -> None:
    cleaned: list[str] = []

    async def work(_: Life) -> None:
        try:
            await asyncio.sleep(10.0)
        finally:
            cleaned.append("up")

    with Simulation() as simulation:
        life = simulation.begin("worker", work)
        simulation.run(1.0)
        simulation.end(life)
        simulation.run(20.0)
        assert cleaned == []


def test_a_process_that_is_suspended_finds_its_timers_past_and_its_messages_unread() -> None:
    happened: list[tuple[float, str]] = []

    with Simulation() as simulation:

        async def work(life: Life) -> None:
            life.loop.call_later(2.0, lambda: happened.append((simulation.now, "timer")))

        begun = simulation.now
        life = simulation.begin("worker", work)
        simulation.run(1.0)
        simulation.at(begun + 1.5, life, lambda: happened.append((simulation.now, "message")))
        simulation.suspend(life, 5.0)
        simulation.run(10.0)
        assert happened == [(begun + 6.0, "timer"), (begun + 6.0, "message")]


def test_a_process_that_fails_fails_the_test() -> None:
    async def work(_: Life) -> None:
        raise ValueError("wrong")

    with Simulation() as simulation:
        simulation.begin("worker", work)
        with pytest.raises(ValueError, match="wrong"):
            simulation.run(1.0)
