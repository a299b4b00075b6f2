"""The metrics of each VM that the reaper knows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import generate_latest

from jitsu_protocol.messages import Report, Use, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.events import StatesListed, UsageReported, VmsConfigured
from jitsu_reaper.rules.reaper import Reaper
from jitsu_reaper.wires.server import Ears
from jitsu_reaper.wires.vm_metrics import UsageMetrics
from tests.support.vms import make_vm
from tests.support.world import PlayedWorld

if TYPE_CHECKING:
    from collections.abc import Iterator

WWW, API = make_vm("www", "127.0.4.1"), make_vm("api", "127.0.4.2")
(NAME,) = WWW.names


def reaping(world: PlayedWorld) -> tuple[Reaper, UsageMetrics]:
    """Return a reaper with two VMs, of which one is up and was asked for five times, 30 s ago."""
    reaper = Reaper(Ears(), 3.0, 0.0)
    reaper.handle(VmsConfigured([VmChanged(None, WWW), VmChanged(None, API)]), 0.0)
    up = VmStatus(uuid=WWW.uuid, name="www", state=VmState.READY)
    off = VmStatus(uuid=API.uuid, name="api", state=VmState.OFF)
    reaper.handle(StatesListed([up, off], ""), 0.0)
    for batch, count in enumerate((2, 3)):
        use = Use(WWW.uuid, NAME, count, 0.0)
        report = Report(replica="dns-0", instance="i", batch=batch + 1, lease_s=300.0, uses=[use])
        reaper.handle(UsageReported(report, world.clock.wall()), 70.0)
    world.time.advance(100.0)
    return reaper, UsageMetrics(world, reaper)


def lines(world: PlayedWorld, name: str) -> Iterator[str]:
    text = generate_latest(world.metrics.registry).decode()
    return (line.removeprefix(name) for line in text.splitlines() if line.startswith(name + "{"))


async def test_queries_idle_time_and_the_lag_of_replicas_are_those_of_the_reports() -> None:
    async with asyncio.TaskGroup() as group:
        world = PlayedWorld("reaper", group, reaper__metrics="127.0.0.1:1")
        _, metrics = reaping(world)
        assert list(lines(world, "jitsu_vm_queries_total")) == ['{vm="www"} 5.0', '{vm="api"} 0.0']
        assert list(lines(world, "jitsu_vm_idle_seconds")) == ['{vm="www"} 30.0']
        lag = '{replica="dns-0",service="dns"} 30.0'
        assert list(lines(world, "jitsu_reaper_replica_lag_seconds")) == [lag]
        assert metrics.notes() == []


async def test_there_are_no_metrics_of_single_vms_beyond_the_limit_and_status_says_so() -> None:
    async with asyncio.TaskGroup() as group:
        world = PlayedWorld("reaper", group, reaper__metrics="127.0.0.1:1", reaper__vm_metrics="1")
        _, metrics = reaping(world)
        assert list(lines(world, "jitsu_vm_queries_total")) == []
        assert list(lines(world, "jitsu_vm_idle_seconds")) == []
        assert metrics.notes() == ["no metrics of single VMs: there are 2, and reaper.vm_metrics allows 1"]
        metrics.limit = 0  # the operator wants none
        assert metrics.notes() == []


async def test_a_vm_that_is_removed_no_longer_has_metrics() -> None:
    async with asyncio.TaskGroup() as group:
        world = PlayedWorld("reaper", group, reaper__metrics="127.0.0.1:1")
        reaper, _ = reaping(world)
        reaper.handle(VmsConfigured([VmChanged(WWW, None)]), 100.0)
        assert list(lines(world, "jitsu_vm_queries_total")) == ['{vm="api"} 0.0']
